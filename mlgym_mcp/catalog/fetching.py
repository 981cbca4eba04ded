"""Downloads over HTTP that go on where they stopped, in this process or a later one."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread

from mlgym_mcp.catalog.errors import SourceError

if TYPE_CHECKING:
    import httpx  # loaded by the first download: few processes of ours ever make one

Progress = Callable[[float, str], None]
P = ParamSpec("P")
T = TypeVar("T")

RETRIES: Final = 4
"""Attempts in a row of which each gets less than ``STRETCH``."""
STRETCH: Final = 16 << 20
_RETRIED_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_TIMEOUT_S: Final = 30.0
_CONNECT_S: Final = 15.0
_LIMITER: Final = CapacityLimiter(2)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file at an address.

    Attributes:
        address: where.
        size: its size in bytes, where it is known.
        sha256: its checksum, where it shall be checked here.
        pinned: whether its content is checked here or later. If not, a partial download goes on only where the
            server says that the file is still the same, and its end must be told apart from a broken connection.
    """

    address: str
    size: int | None = None
    sha256: str | None = None
    pinned: bool = True


async def download(wanted: Wanted, folder: Path, say: Progress, pause_s: float = 1.0) -> Path:
    """Get a file whole and right into ``folder``, in several attempts; return its temporary path there.

    Args:
        wanted: what.
        folder: where to; partial downloads are kept here.
        say: told the fraction done, and what is being done.
        pause_s: first wait before a retry; doubles each time.

    Raises:
        SourceError: with the reason. What was got is kept, unless it is wrong.
    """
    name = hashlib.sha256(wanted.address.encode()).hexdigest()[:16]
    whole = folder / f".{name}.whole"
    if whole.exists():
        return whole
    attempt = _Download(wanted, folder / f".{name}.part", folder / f".{name}.etag", say)
    tries = 0
    while True:
        before = _size(attempt.part)
        try:
            await attempt.run()
            break
        except SourceError as error:
            tries = 1 if _size(attempt.part) - before >= STRETCH else tries + 1
            if error.kind not in ("network", "truncated") or tries == RETRIES:
                raise
            pause = pause_s * 2 ** (tries - 1)
            say(0.0, f"{error}; trying again in {pause:.0f} s")
        await anyio.sleep(pause * (1 + random.random() / 4))
    expected = wanted.sha256 or attempt.announced
    if expected is not None and (found := await off_loop(checksum, attempt.part, "sha256")) != expected:
        attempt.part.unlink(missing_ok=True)
        raise SourceError(
            "checksum", f"{wanted.address} has the wrong SHA-256 checksum: expected {expected}, got {found}"
        )
    attempt.part.replace(whole)
    attempt.etag.unlink(missing_ok=True)
    return whole


class _Download:
    """The attempts at one file.

    Attributes:
        part: what is here of it.
        etag: the file with the mark that the server gave that content.
        announced: the SHA-256 that the server announced for a file that nothing else pins.
    """

    def __init__(self, wanted: Wanted, part: Path, etag: Path, say: Progress) -> None:
        self.part = part
        self.etag = etag
        self.announced: str | None = None
        self._wanted = wanted
        self._say = say

    async def run(self) -> None:
        """Get what is missing in one attempt, or SourceError."""
        import httpx

        address = self._wanted.address
        here, headers = self._begin()
        if here and here == self._wanted.size:
            return
        try:
            async with (
                httpx.AsyncClient(
                    follow_redirects=True, timeout=httpx.Timeout(_TIMEOUT_S, connect=_CONNECT_S)
                ) as client,
                client.stream("GET", address, headers={"Accept-Encoding": "identity"} | headers) as answer,
            ):
                here = self._accepted(answer, here)
                size = self._wanted.size or self._announcements(answer)
                total = size or here + int(answer.headers.get("Content-Length", 0))
                enough_disk(address, total - here, self.part.parent)
                with self.part.open("ab" if here else "wb") as file:
                    async for piece in answer.aiter_raw():
                        file.write(piece)
                        here += len(piece)
                        if size is not None and here > size:
                            raise SourceError("checksum", f"{address} is larger than the {size} bytes expected")
                        done = min(0.95, 0.95 * here / total) if total else 0.5
                        self._say(done, f"downloading {address.rsplit('/', 1)[-1]}")
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.ReadTimeout) as error:
            raise SourceError("truncated", f"{address} broke off after {here} bytes ({words(error)})") from error
        except httpx.HTTPError as error:
            raise SourceError("network", f"{address} cannot be reached ({words(error)})") from error
        except httpx.InvalidURL as error:
            raise SourceError("unusable", f"{address} is not a valid address ({error})") from error
        except OSError as error:
            raise disk_error(error, self.part) from error
        if size is not None and here < size:
            raise SourceError("truncated", f"{address} ended after {here} of {size} bytes")

    def _begin(self) -> tuple[int, dict[str, str]]:
        """How much is here, and the headers that ask for the rest."""
        here = _size(self.part)
        mark = ""
        if not self._wanted.pinned:
            with suppress(FileNotFoundError):
                mark = self.etag.read_text(encoding="ascii")
        if (self._wanted.size is not None and here > self._wanted.size) or not (self._wanted.pinned or mark):
            self.part.unlink(missing_ok=True)
            here = 0
        if not here:
            return 0, {}
        return here, {"Range": f"bytes={here}-"} | ({"If-Range": mark} if mark else {})

    def _accepted(self, answer: httpx.Response, here: int) -> int:
        """Where the body of an answer begins, or SourceError."""
        address, code, headers = self._wanted.address, answer.status_code, answer.headers
        if code in (200, 206) and headers.get("Content-Type", "").startswith("text/html"):
            raise SourceError("missing", f"{address} is a web page, not a file of data")
        if code == 206 and headers.get("Content-Range", "").startswith(f"bytes {here}-"):
            return here
        if code == 200:
            return 0
        if code in (206, 416):  # not the range that was asked for: what is here is of no use
            self.part.unlink(missing_ok=True)
            raise SourceError("truncated", f"{address} does not go on at byte {here}")
        if code in _RETRIED_STATUS:
            raise SourceError("network", f"{address} is not available now (HTTP {code})")
        raise SourceError("missing", f"{address} is not there (HTTP {code})")

    def _announcements(self, answer: httpx.Response) -> int | None:
        """Learn what the server says about a file of unknown size; its size, if it is said."""
        first = (answer.history or [answer])[0].headers  # a hub redirects, and knows the file better than its store
        said = first.get("X-Linked-Size", "")
        if not self._wanted.pinned:
            mark = re.fullmatch(r'"([\x21\x23-\x7e]+)"', answer.headers.get("ETag", ""))
            self.etag.write_text(mark[0] if mark else "", encoding="ascii")
            linked = re.fullmatch(r'"?([0-9a-f]{64})"?', first.get("X-Linked-ETag", ""))
            self.announced = linked[1] if linked else None
            chunked = "chunked" in answer.headers.get("Transfer-Encoding", "")
            if not (said.isdecimal() or chunked or "Content-Length" in answer.headers):
                raise SourceError(
                    "unusable",
                    f"{self._wanted.address} comes without a size, so nobody can tell whether all of it came",
                )
        return int(said) if said.isdecimal() else None


def checksum(path: Path, algorithm: str) -> str:
    """Return a file's checksum; reads it in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def enough_disk(what: str, more: int, folder: Path) -> None:
    """Raise SourceError at once where a long download could only fill the disk."""
    free = shutil.disk_usage(folder).free
    if more > free:
        raise SourceError("disk", f"{what} needs {more >> 20} MiB more, but {folder} has {free >> 20} MiB free")


def disk_error(error: OSError, path: Path) -> SourceError:
    """Return what to say about a file that cannot be written."""
    free = ""
    with suppress(OSError):
        free = f"; {shutil.disk_usage(path.parent).free >> 20} MiB are free"
    return SourceError("disk", f"{path.parent} cannot be written to ({error.strerror or error}){free}")


def words(error: Exception) -> str:
    """Return an exception's message, or its name if it has none."""
    return str(error) or type(error).__name__


async def off_loop(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what reads or writes much in a thread."""
    return await to_thread.run_sync(lambda: work(*args, **kwargs), limiter=_LIMITER)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
