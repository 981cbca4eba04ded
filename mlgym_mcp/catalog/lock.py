"""What a ``data.lock.toml`` may say: every source file, where it comes from, and its checksums."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from mlgym_mcp.catalog.spec import Id, Model
from mlgym_mcp.catalog.wording import KeyedError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Size = Annotated[int, Field(gt=0)]


def _relative(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/") or not path.isprintable() or " " in path or not path:
        raise ValueError(f"expected a relative path without '..' or spaces, got {path!r}")
    return path


Relative = Annotated[str, AfterValidator(_relative)]


class DebOrigin(Model):
    """A file in a Debian package: through apt where it is, else from the user's mirrors (``MLGYM_DEB_MIRRORS``).

    The package is the archive's to rebuild: its own checksum counts only when it comes from a mirror by name.
    """

    kind: Literal["deb"]
    package: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]
    path: Relative
    member: Relative
    bytes: Size
    sha256: Sha256


class UrlOrigin(Model):
    """A file at an address; ``bytes`` and ``sha256`` are of the file as it is sent."""

    kind: Literal["url"]
    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
    bytes: Size | None = None
    sha256: Sha256 | None = None


class HubOrigin(Model):
    """A file of a Hugging Face repository at a full revision; the hub's address is ``$HF_ENDPOINT``."""

    kind: Literal["hf"]
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    path: Relative
    repo_type: Literal["dataset", "model"] = "dataset"
    bytes: Size | None = None
    sha256: Sha256 | None = None


Origin = Annotated[DebOrigin | UrlOrigin | HubOrigin, Field(discriminator="kind")]


class Source(Model):
    """One of ``[[sources]]``: a payload, and the places to get it from, tried in order.

    Exactly one of three things pins a payload: its SHA-256 (which an origin may state in its place when nothing is
    compressed), its MD5 where the publisher gives no more, or the trust of the first use.

    Attributes:
        name: what the generator calls it.
        compression: how the files at the origins hold the payload.
        payload_bytes: size of the decompressed payload, where it is known.
        payload_sha256: its checksum; what counts in the end.
        payload_md5: the same, where only an MD5 was published.
        trust: ``first-use``: nobody published a checksum; what comes first is recorded and enforced from then on.
        licence: of the data.
        verified_on: when a person last saw these checksums come true.
        origins: where from.
    """

    name: Id
    compression: Literal["gzip", "none"] = "none"
    payload_bytes: Size | None = None
    payload_sha256: Sha256 | None = None
    payload_md5: Md5 | None = None
    trust: Literal["first-use"] | None = None
    licence: str
    verified_on: str = ""
    origins: Annotated[tuple[Origin, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _pinned(self) -> Source:
        for key in ("bytes", "sha256"):
            said = {getattr(self, f"payload_{key}")} | self._said_by_origins(key)
            if len(said - {None}) > 1:
                found = " and ".join(sorted(map(str, said - {None})))
                raise KeyedError(f"payload_{key}", f"expected the same as at the uncompressed origins, got {found}")
        pins = {"payload_sha256": self.sha256, "payload_md5": self.payload_md5, 'trust = "first-use"': self.trust}
        found = " and ".join(name for name, value in pins.items() if value)
        if len([value for value in pins.values() if value]) != 1:
            raise KeyedError(
                "payload_sha256",
                'expected exactly one of payload_sha256, payload_md5 or trust = "first-use" to pin the payload, '
                f"got {found or 'none'}",
            )
        return self

    def _said_by_origins(self, key: str) -> set[int | str]:
        """What origins state about the payload itself: those that send it as it is."""
        if self.compression != "none":
            return set()
        said = {getattr(origin, key) for origin in self.origins if not isinstance(origin, DebOrigin)}
        return said - {None}

    @property
    def sha256(self) -> str | None:
        """The payload's SHA-256 where it is pinned by one."""
        said = self.payload_sha256 or next(iter(self._said_by_origins("sha256")), None)
        return None if said is None else str(said)

    @property
    def size(self) -> int | None:
        """The payload's size in bytes where it is known."""
        said = self.payload_bytes or next(iter(self._said_by_origins("bytes")), None)
        return None if said is None else int(said)

    @property
    def pin(self) -> str:
        """What says which payload this is: equal pins, equal payloads (on this machine, for those of first use).

        The SHA-256, or ``md5:`` and the MD5, or ``first-use:`` and a digest of the origins.
        """
        if self.sha256:
            return self.sha256
        if self.payload_md5:
            return f"md5:{self.payload_md5}"
        origins = [origin.model_dump(mode="json") for origin in self.origins]
        words = json.dumps([self.name, self.compression, origins], sort_keys=True)
        return f"first-use:{hashlib.sha256(words.encode()).hexdigest()}"


class Lock(Model):
    """A whole ``data.lock.toml``."""

    schema_version: Literal[1]
    sources: tuple[Source, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> Lock:
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise KeyedError("sources", f"expected each name once, got {name!r} twice")
        return self

    def source(self, name: str) -> Source:
        """The source of that name; the caller has checked that there is one."""
        return next(source for source in self.sources if source.name == name)
