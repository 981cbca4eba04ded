"""Gets source files, checked before anybody sees them.

What is kept is the decompressed payload, named by what pins it, in ``downloads/``; a file under that name is
whole and right. Archives and partial downloads beside it are removed once their payloads are there.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlgym_mcp.catalog import deb
from mlgym_mcp.catalog.errors import SourceError
from mlgym_mcp.catalog.fetching import Wanted, checksum, disk_error, download, off_loop, words
from mlgym_mcp.catalog.lock import DebOrigin, HubOrigin, Source, UrlOrigin
from mlgym_mcp.catalog.trust import Trusted, record_path, trust, trusted
from mlgym_sandbox.home import home
from mlgym_sandbox.locking import locked

Progress = Callable[[float, str], None]

HUB: Final = "https://huggingface.co"
_PIECE: Final = 1 << 20


def payload_path(source: Source) -> Path:
    """Return where the payload of a source is, or will be."""
    return home("downloads") / f"{source.name}-{source.pin.rpartition(':')[2][:16]}"


def have(source: Source) -> bool:
    """Whether the payload is there; by name and size, which only a checked file gets.

    Raises:
        SourceError: a record of trust cannot be read.
    """
    record = trusted(source)
    if source.trust is not None and record is None:
        return False
    size = record.bytes if record else source.size
    try:
        return payload_path(source).stat().st_size == size or size is None
    except FileNotFoundError:
        return False


def known_checksum(source: Source) -> str:
    """Return the checksum that the payload of a source that is here was held against."""
    record = trusted(source)
    return record.sha256 if record else source.pin


async def fetch(
    sources: Sequence[Source],
    *,
    progress: Progress | None = None,
    environ: Mapping[str, str] | None = None,
    pause_s: float = 1.0,
) -> dict[str, Path]:
    """Return the payloads of sources by name, getting what is missing.

    Args:
        sources: what is wanted.
        progress: told the fraction done, and what is being done.
        environ: where ``HF_ENDPOINT`` and ``MLGYM_DEB_MIRRORS`` are read; default: the process's.
        pause_s: first wait before a retry; doubles each time.

    Raises:
        SourceError: a source could be had from none of its origins; says why for each. What is whole is kept.
    """
    say = progress or (lambda _fraction, _text: None)
    folder = home("downloads")
    fetcher = _Fetcher(folder, os.environ if environ is None else environ, pause_s)
    async with locked(folder / ".lock", lambda: say(0.0, "another process is downloading; waiting for it")):
        for number, source in enumerate(sources):
            if not await off_loop(have, source):

                def part(fraction: float, text: str, number: int = number) -> None:
                    say((number + fraction) / len(sources), text)

                await fetcher.source(source, part)
        await off_loop(fetcher.tidy)
    say(1.0, "sources are here")
    return {source.name: payload_path(source) for source in sources}


class _Fetcher:
    """Gets sources into one folder; holds the archives that several sources share until :meth:`tidy`."""

    def __init__(self, folder: Path, environ: Mapping[str, str], pause_s: float) -> None:
        self._folder = folder
        self._environ = environ
        self._pause_s = pause_s
        self._debs: dict[str, Path] = {}

    async def source(self, source: Source, say: Progress) -> None:
        """Get one source, from the first of its origins that has it."""
        failures: list[SourceError] = []
        for origin in source.origins:
            try:
                if isinstance(origin, DebOrigin):
                    await self._from_deb(source, origin, say)
                else:
                    await self._from_web(source, origin, say)
                return
            except SourceError as error:
                failures.append(error)
                if error.kind == "disk":
                    break
        problems = "; ".join(str(failure) for failure in failures)
        raise SourceError(failures[-1].kind, f"{source.name} cannot be had: {problems}")

    def tidy(self) -> None:
        """Remove archives whose payloads are all here."""
        for path in self._debs.values():
            path.unlink(missing_ok=True)

    async def _from_web(self, source: Source, origin: HubOrigin | UrlOrigin, say: Progress) -> None:
        address, size, sha256 = self._address(origin), origin.bytes, origin.sha256
        record = await off_loop(trusted, source)
        if source.compression == "none":  # the file is the payload: its checksum is for _keep, which reads it once
            size, sha256 = source.size or (record.bytes if record else None), None
        pinned = source.trust is None or record is not None
        wanted = Wanted(address, size, sha256, pinned=pinned)
        await self._keep(source, await download(wanted, self._folder, say, self._pause_s), address, say)

    def _address(self, origin: HubOrigin | UrlOrigin) -> str:
        if isinstance(origin, UrlOrigin):
            return origin.url
        base = self._environ.get("HF_ENDPOINT", HUB).rstrip("/")
        kind = "datasets/" if origin.repo_type == "dataset" else ""
        return f"{base}/{kind}{origin.repo}/resolve/{origin.revision}/{origin.path}"

    async def _from_deb(self, source: Source, origin: DebOrigin, say: Progress) -> None:
        archive = self._debs.get(origin.package)
        if archive is None or not archive.exists():
            archive = self._debs[origin.package] = await self._deb(origin, say)
        member = self._folder / f".{source.name}.member"
        say(0.95, f"unpacking {source.name}")
        try:
            await off_loop(deb.extract, archive, origin.member, member)
            await self._keep(source, member, f"the package {origin.package}", say)
        except OSError as error:
            raise disk_error(error, member) from error
        finally:
            member.unlink(missing_ok=True)

    async def _deb(self, origin: DebOrigin, say: Progress) -> Path:
        problems = []
        try:
            return await deb.from_apt(origin.package, self._folder, say)
        except SourceError as error:
            problems.append(error)
        except OSError as error:
            raise disk_error(error, self._folder / origin.package) from error
        for mirror in self._environ.get("MLGYM_DEB_MIRRORS", "").split():
            wanted = Wanted(f"{mirror.rstrip('/')}/{origin.path}", origin.bytes, origin.sha256)
            try:
                return await download(wanted, self._folder, say, self._pause_s)
            except SourceError as error:
                problems.append(error)
        raise SourceError(problems[-1].kind, "; ".join(map(str, problems)))

    async def _keep(self, source: Source, file: Path, origin: str, say: Progress) -> None:
        """Give the payload its name, if it is right; ``file`` is gone then, and when it is wrong."""
        final = payload_path(source)
        part = final.with_name(f".{final.name}.part")
        say(0.96, f"checking {source.name}")
        try:
            record = await off_loop(trusted, source)
            found = await off_loop(_payload, source, file, part)
            if (problem := _problem(source, record, found)) is not None:
                raise SourceError("checksum", f"{source.name} from {origin} {problem}")
            if source.trust is not None and record is None:
                record = await off_loop(trust, source, origin, found.bytes, found.checksum)
                say(0.99, record.sentence)
            (file if source.compression == "none" else part).replace(final)
            file.unlink(missing_ok=True)
        except SourceError:
            file.unlink(missing_ok=True)
            raise
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            file.unlink(missing_ok=True)
            raise SourceError(
                "truncated", f"{source.name} from {origin} cannot be decompressed ({words(error)})"
            ) from error
        except OSError as error:
            raise disk_error(error, part) from error
        finally:
            part.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Payload:
    """Size and checksum, an MD5 if the source is pinned by one, else a SHA-256."""

    bytes: int
    checksum: str


def _payload(source: Source, file: Path, part: Path) -> _Payload:
    """Say what a payload is, and make it durable: ``file`` itself, or ``part``, written from a compressed one."""
    algorithm = "md5" if source.payload_md5 else "sha256"
    if source.compression == "none":
        with file.open("rb") as kept:
            os.fsync(kept.fileno())
        return _Payload(file.stat().st_size, checksum(file, algorithm))
    digest, size = hashlib.new(algorithm, usedforsecurity=False), 0
    with gzip.open(file, "rb") as packed, part.open("wb") as out:
        while (source.size is None or size <= source.size) and (piece := packed.read(_PIECE)):
            out.write(piece)
            digest.update(piece)
            size += len(piece)
        out.flush()
        os.fsync(out.fileno())
    return _Payload(size, digest.hexdigest())


def _problem(source: Source, record: Trusted | None, found: _Payload) -> str | None:
    """What is wrong with a payload: the rest of a sentence."""
    size = record.bytes if record else source.size
    expected = record.sha256 if record else source.payload_md5 or source.sha256
    if (size is None or found.bytes == size) and (expected is None or found.checksum == expected):
        return None
    kind = "MD5" if source.payload_md5 else "SHA-256"
    numbers = (
        f"expected {'' if size is None else f'{size} bytes with '}{kind} {expected}, "
        f"got {found.bytes} with {found.checksum}"
        if expected
        else f"expected {size} bytes, got {found.bytes}"
    )
    if record is None:
        return f"has the wrong content: {numbers}"
    return (
        f"is not what was trusted on its first use on {record.first_used}: {numbers}; "
        f"if you know that the new content is right, remove {record_path(source)} and try again"
    )
