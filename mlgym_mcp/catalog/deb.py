"""Debian packages as a source of data: obtained through apt, read without installing them."""

from __future__ import annotations

import lzma
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import anyio

from mlgym_mcp.catalog.errors import SourceError

_TIMEOUT_S: Final = 900.0
_MAGIC: Final = b"!<arch>\n"
_PIECE: Final = 1 << 20

Progress = Callable[[float, str], None]


async def from_apt(package: str, folder: Path, say: Progress) -> Path:
    """Download a package with apt, which checks it against the archive's signatures; needs no root.

    When apt does not know the package, its lists are fetched into a private folder and asked again.

    Raises:
        SourceError: ``unusable`` (no apt here), ``missing`` or ``network``.
    """
    if shutil.which("apt-get") is None:
        raise SourceError("unusable", f"the package {package} needs apt, which is not on this machine")
    target = folder / f".{package}.deb"
    with tempfile.TemporaryDirectory(prefix=".apt-", dir=folder) as scratch:
        say(0.1, f"downloading {package} with apt")
        words = await _apt(["download", package], scratch)
        if (found := next(Path(scratch).glob("*.deb"), None)) is None:
            say(0.1, "asking apt for its newest lists")
            private = _private_lists(Path(scratch))
            await _apt([*private, "update"], scratch)
            words = await _apt([*private, "download", package], scratch) or words
            found = next(Path(scratch).glob("*.deb"), None)
        if found is None:
            unknown = "Unable to locate" in words
            raise SourceError(
                "missing" if unknown else "network",
                f"apt cannot download {package} ({words or 'no reason given'}); "
                "try 'sudo apt-get update', or name mirrors in MLGYM_DEB_MIRRORS",
            )
        found.replace(target)
    return target


def _private_lists(scratch: Path) -> list[str]:
    for name in ("lists/partial", "cache/archives/partial"):
        (scratch / name).mkdir(parents=True)
    return ["-o", f"Dir::State::lists={scratch}/lists", "-o", f"Dir::Cache={scratch}/cache"]


async def _apt(arguments: list[str], folder: str) -> str:
    """Run apt-get; its last error in words, or ""."""
    command = ["apt-get", "-q", "-y", "-o", "Acquire::Retries=2", *arguments]
    try:
        with anyio.fail_after(_TIMEOUT_S):
            done = await anyio.run_process(command, cwd=folder, stderr=subprocess.STDOUT, check=False)
    except TimeoutError:
        return f"it took longer than {_TIMEOUT_S:.0f} s"
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = done.stdout.decode(errors="replace").splitlines()
    return next((line[:300] for line in reversed(lines) if line.startswith("E:")), f"exit code {done.returncode}")


def extract(archive: Path, member: str, target: Path) -> None:
    """Write one regular file of a package to ``target``.

    Raises:
        SourceError: it is no package, or has no such file.
        OSError: no disk.
    """
    try:
        with archive.open("rb") as file, _data(file, archive) as data, tarfile.open(fileobj=data, mode="r|") as tar:
            for entry in tar:
                if entry.name.removeprefix("./") == member and entry.isreg():
                    content = tar.extractfile(entry)
                    assert content is not None
                    with content, target.open("wb") as out:
                        shutil.copyfileobj(content, out, _PIECE)
                    return
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise SourceError("truncated", f"{archive.name} is not a whole Debian package ({error})") from error
    raise SourceError("missing", f"{archive.name} has no file {member}")


@contextmanager
def _data(file: IO[bytes], archive: Path) -> Any:
    """The package's files as an uncompressed tar stream."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise SourceError("truncated", f"{archive.name} is not a Debian package")
    while len(header := file.read(60)) == 60:
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])
        if name == "data.tar.xz":
            with lzma.open(file) as stream:
                yield stream
            return
        if name == "data.tar":
            yield file
            return
        if name.startswith("data.tar"):
            with _by_dpkg(archive) as stream:
                yield stream
            return
        file.seek(size + size % 2, 1)
    raise SourceError("truncated", f"{archive.name} is not a whole Debian package")


@contextmanager
def _by_dpkg(archive: Path) -> Any:
    """As ``_data``, for compressions that this Python has no module for."""
    if shutil.which("dpkg-deb") is None:
        raise SourceError("unusable", f"{archive.name} is compressed in a way that only dpkg-deb reads; install dpkg")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()
