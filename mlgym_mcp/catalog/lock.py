"""What a ``data.lock.toml`` may say: every source file, where it comes from, and its checksums."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from mlgym_mcp.catalog.spec import Id, Model
from mlgym_mcp.catalog.wording import KeyedError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
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

    Attributes:
        name: what the generator calls it.
        compression: how the files at the origins hold the payload.
        payload_bytes: size of the decompressed payload.
        payload_sha256: its checksum; what counts in the end.
        licence: of the data.
        verified_on: when a person last saw these checksums come true.
        origins: where from.
    """

    name: Id
    compression: Literal["gzip", "none"] = "none"
    payload_bytes: Size
    payload_sha256: Sha256
    licence: str
    verified_on: str = ""
    origins: Annotated[tuple[Origin, ...], Field(min_length=1)]


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
