"""Gets source files: downloads that can go on where they stopped, checked before anybody sees them.

What is kept is the decompressed payload, named by its checksum, in ``downloads/``; a file under that name is
whole and right. Archives and partial downloads beside it are removed once their payloads are there.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import anyio
import httpx
from anyio import CapacityLimiter, to_thread

from mlgym_mcp.catalog import deb
from mlgym_mcp.catalog.errors import SourceError
from mlgym_mcp.catalog.lock import DebOrigin, HubOrigin, Origin, Source
from mlgym_sandbox.home import home
from mlgym_sandbox.locking import locked

Progress = Callable[[float, str], None]
P = ParamSpec("P")
T = TypeVar("T")

HUB: Final = "https://huggingface.co"
RETRIES: Final = 4
_LIMITER: Final = CapacityLimiter(2)
_PIECE: Final = 1 << 20
_RETRIED_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_TIMEOUT: Final = httpx.Timeout(30.0, connect=15.0)


def payload_path(source: Source) -> Path:
    """Return where the payload of a source is, or will be."""
    return home("downloads") / f"{source.name}-{source.payload_sha256[:16]}"


def have(source: Source) -> bool:
    """Whether the payload is there; by name and size, which only a checked file gets."""
    try:
        return payload_path(source).stat().st_size == source.payload_bytes
    except FileNotFoundError:
        return False


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
            if not await _off_loop(have, source):

                def part(fraction: float, text: str, number: int = number) -> None:
                    say((number + fraction) / len(sources), text)

                await fetcher.source(source, part)
        await _off_loop(fetcher.tidy)
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
                    address = self._address(origin)
                    file = await self._download(address, origin.bytes, origin.sha256, say)
                    await self._unpack(source, file, f"{address}")
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

    def _address(self, origin: Origin) -> str:
        if isinstance(origin, HubOrigin):
            base = self._environ.get("HF_ENDPOINT", HUB).rstrip("/")
            kind = "datasets/" if origin.repo_type == "dataset" else ""
            return f"{base}/{kind}{origin.repo}/resolve/{origin.revision}/{origin.path}"
        assert not isinstance(origin, DebOrigin)
        return origin.url

    async def _from_deb(self, source: Source, origin: DebOrigin, say: Progress) -> None:
        archive = self._debs.get(origin.package)
        if archive is None or not archive.exists():
            archive = self._debs[origin.package] = await self._deb(origin, say)
        member = self._folder / f".{source.name}.member"
        say(0.95, f"unpacking {source.name}")
        try:
            await _off_loop(deb.extract, archive, origin.member, member)
            await self._unpack(source, member, f"the package {origin.package}")
        except OSError as error:
            raise _disk(error, member) from error
        finally:
            member.unlink(missing_ok=True)

    async def _deb(self, origin: DebOrigin, say: Progress) -> Path:
        problems = []
        try:
            return await deb.from_apt(origin.package, self._folder, say)
        except SourceError as error:
            problems.append(error)
        except OSError as error:
            raise _disk(error, self._folder / origin.package) from error
        for mirror in self._environ.get("MLGYM_DEB_MIRRORS", "").split():
            try:
                return await self._download(f"{mirror.rstrip('/')}/{origin.path}", origin.bytes, origin.sha256, say)
            except SourceError as error:
                problems.append(error)
        raise SourceError(problems[-1].kind, "; ".join(map(str, problems)))

    # -- over HTTP -------------------------------------------------------------------------------------------

    async def _download(self, address: str, size: int | None, sha256: str | None, say: Progress) -> Path:
        """Get a file whole and right, in several attempts, each going on where the one before stopped."""
        name = hashlib.sha256(address.encode()).hexdigest()[:16]
        part = self._folder / f".{name}.part"
        whole = self._folder / f".{name}.whole"
        if not whole.exists():
            pause = self._pause_s
            for attempt in range(RETRIES):
                try:
                    await self._attempt(address, part, size, say)
                    break
                except SourceError as error:
                    if error.kind not in ("network", "truncated") or attempt == RETRIES - 1:
                        raise
                    say(0.0, f"{error}; trying again in {pause:.0f} s")
                await anyio.sleep(pause * (1 + random.random() / 4))
                pause *= 2
            if sha256 is not None and (found := await _off_loop(_sha256, part)) != sha256:
                part.unlink(missing_ok=True)
                raise SourceError(
                    "checksum", f"{address} has the wrong SHA-256 checksum: expected {sha256}, got {found}"
                )
            part.replace(whole)
        return whole

    async def _attempt(self, address: str, part: Path, size: int | None, say: Progress) -> None:
        here = part.stat().st_size if part.exists() else 0
        if size is not None and here > size:
            part.unlink()
            here = 0
        if here and here == size:
            return
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={here}-"} if here else {})
        name = address.rsplit("/", 1)[-1]
        try:
            async with (
                httpx.AsyncClient(follow_redirects=True, timeout=_TIMEOUT) as client,
                client.stream("GET", address, headers=headers) as answer,
            ):
                here = self._accepted(answer, address, here, part)
                total = size or here + int(answer.headers.get("Content-Length", 0))
                with part.open("ab" if here else "wb") as file:
                    async for piece in answer.aiter_raw():
                        file.write(piece)
                        here += len(piece)
                        if size is not None and here > size:
                            raise SourceError("checksum", f"{address} is larger than the {size} bytes expected")
                        say(min(0.95, 0.95 * here / total) if total else 0.5, f"downloading {name}")
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.ReadTimeout) as error:
            raise SourceError("truncated", f"{address} broke off after {here} bytes ({_words(error)})") from error
        except httpx.HTTPError as error:
            raise SourceError("network", f"{address} cannot be reached ({_words(error)})") from error
        except httpx.InvalidURL as error:
            raise SourceError("unusable", f"{address} is not a valid address ({error})") from error
        except OSError as error:
            raise _disk(error, part) from error
        if size is not None and here < size:
            raise SourceError("truncated", f"{address} ended after {here} of {size} bytes")

    @staticmethod
    def _accepted(answer: httpx.Response, address: str, here: int, part: Path) -> int:
        """Where the body of an answer begins, or SourceError."""
        code = answer.status_code
        if code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {here}-"):
            return here
        if code == 200:
            return 0
        if code in (206, 416):  # not the range that was asked for: what is here is of no use
            part.unlink(missing_ok=True)
            raise SourceError("truncated", f"{address} does not go on at byte {here}")
        if code in _RETRIED_STATUS:
            raise SourceError("network", f"{address} is not available now (HTTP {code})")
        raise SourceError("missing", f"{address} is not there (HTTP {code})")

    # -- payloads --------------------------------------------------------------------------------------------

    async def _unpack(self, source: Source, file: Path, origin: str) -> None:
        """Write the payload under its name, if it is right; ``file`` is removed either way."""
        final = payload_path(source)
        part = final.with_name(f".{final.name}.part")
        try:
            size, found = await _off_loop(_decompress, file, part, source.compression, source.payload_bytes)
            if size != source.payload_bytes or found != source.payload_sha256:
                raise SourceError(
                    "checksum",
                    f"{source.name} from {origin} has the wrong content: expected {source.payload_bytes} bytes with "
                    f"SHA-256 {source.payload_sha256}, got {size} with {found}",
                )
            part.replace(final)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise SourceError(
                "truncated", f"{source.name} from {origin} cannot be decompressed ({_words(error)})"
            ) from error
        except OSError as error:
            raise _disk(error, part) from error
        finally:
            part.unlink(missing_ok=True)
            file.unlink(missing_ok=True)


def _decompress(file: Path, part: Path, compression: str, most: int) -> tuple[int, str]:
    """Write a payload durably; its size (counted to a little over ``most``) and SHA-256."""
    digest, size = hashlib.sha256(), 0
    with ExitStack() as stack:
        source: Any = stack.enter_context(file.open("rb"))
        if compression == "gzip":
            source = stack.enter_context(gzip.open(source, "rb"))
        out = stack.enter_context(part.open("wb"))
        while size <= most and (piece := source.read(_PIECE)):
            out.write(piece)
            digest.update(piece)
            size += len(piece)
        out.flush()
        os.fsync(out.fileno())
    return size, digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _disk(error: OSError, path: Path) -> SourceError:
    free = ""
    with suppress(OSError):
        free = f"; {shutil.disk_usage(path.parent).free >> 20} MiB are free"
    return SourceError("disk", f"{path.parent} cannot be written to ({error.strerror or error}){free}")


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


async def _off_loop(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await to_thread.run_sync(lambda: work(*args, **kwargs), limiter=_LIMITER)
