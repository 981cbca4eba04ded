"""Snapshots: plain files with plain names are stored by content; every trick of a tar is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlgym_mcp.grading.errors import InvalidSubmission
from mlgym_mcp.grading.snapshot import Snapshot, load_snapshot, pack_snapshot, store_snapshot
from mlgym_mcp.grading.tar_reader import read_tar

pytestmark = pytest.mark.anyio


def tar_of(*entries: tuple[str, str | None, bytes], form: int = tarfile.PAX_FORMAT, **fields: Any) -> bytes:
    """A tar of ``(name, kind, content)``; kind is a tarfile type letter or ``None`` for a file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            if kind is not None:
                info.type = kind.encode()
            for field, value in fields.items():
                setattr(info, field, value)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


async def store(tar: bytes, folder: Path, **limits: int) -> Snapshot:
    return await store_snapshot(tar, folder, **({"max_bytes": 10_000, "max_files": 5} | limits))


def leftovers(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "snapshots"))


async def test_files_are_stored_read_only_by_content(tmp_path: Path) -> None:
    tar = tar_of(("./", "5", b""), ("./a.csv", None, b"one"), ("b/", "5", b""), ("b/c.bin", None, b"\0two"))
    snapshot = await store(tar, tmp_path)
    assert [(file.path, file.size) for file in snapshot.files] == [("a.csv", 3), ("b/c.bin", 4)]
    assert snapshot.files[0].sha256 == hashlib.sha256(b"one").hexdigest()
    assert snapshot.size == 7
    assert snapshot.path == tmp_path / "snapshots" / snapshot.digest / "files"
    assert (snapshot.path / "b/c.bin").read_bytes() == b"\0two"
    assert stat.S_IMODE((snapshot.path / "a.csv").stat().st_mode) == 0o400
    assert json.loads((snapshot.path.parent / "manifest.json").read_text())["digest"] == snapshot.digest
    assert await load_snapshot(tmp_path, snapshot.digest) == snapshot
    assert leftovers(tmp_path) == [snapshot.digest]


async def test_the_same_content_is_stored_once_whatever_the_tar_says(tmp_path: Path) -> None:
    first = await store(tar_of(("a", None, b"1"), ("b", None, b"2"), mtime=1, uid=7), tmp_path)
    second = await store(tar_of(("b", None, b"2"), ("a", None, b"1"), mtime=99), tmp_path)
    other = await store(tar_of(("a", None, b"2"), ("b", None, b"1")), tmp_path)
    assert first == second
    assert other.digest != first.digest
    assert leftovers(tmp_path) == sorted([first.digest, other.digest])


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
async def test_long_and_foreign_names_survive_every_format(tmp_path: Path, form: int) -> None:
    names = ["x" * 90 + "/" + "y" * 90 + ".csv", "z/ä/ω.txt"]
    if form != tarfile.USTAR_FORMAT:
        names.append("l" * 250)
    snapshot = await store(tar_of(*((name, None, b"1") for name in names), form=form), tmp_path)
    assert [file.path for file in snapshot.files] == sorted(names)
    again = await store(await pack_snapshot(snapshot), tmp_path / "other")
    assert again.files == snapshot.files


async def test_what_is_packed_for_a_player_unpacks_to_the_same_files(tmp_path: Path) -> None:
    snapshot = await store(tar_of(("d/e/f.py", None, b"pass"), ("g.py", None, b"")), tmp_path)
    packed = await pack_snapshot(snapshot)
    assert packed == await pack_snapshot(snapshot)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(
            tmp_path / "out", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {})
        )  # Python 3.11.2 has no filters
    assert (tmp_path / "out/d/e/f.py").read_bytes() == b"pass"


def pax(name: str, **records: str) -> bytes:
    """A file of a harmless name behind a handmade extended header."""
    body = b""
    for key, value in records.items():
        line = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(line) + 1
        while len(str(length)) + len(line) != length:
            length += 1
        body += str(length).encode() + line
    return raw("ignored", "x", body) + raw(name, "0", b"content")


def raw(name: str, kind: str, content: bytes, *, link: str = "", size: int | None = None) -> bytes:
    """One handmade entry, with a valid checksum."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind.encode(), link
    info.size = len(content) if size is None else size
    header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")[-512:]
    return header + content + bytes(-len(content) % 512)


END = bytes(1024)
FILE = raw("a", "0", b"x")


@pytest.mark.parametrize(
    ("tar", "code", "said"),
    [
        (raw("l", "2", b"", link="/etc/passwd") + END, "forbidden", "symbolic link, 'l'"),
        (FILE + raw("h", "1", b"", link="a") + END, "forbidden", "hard link"),
        (raw("c", "3", b"") + END, "forbidden", "character device"),
        (raw("b", "4", b"") + END, "forbidden", "block device"),
        (raw("f", "6", b"") + END, "forbidden", "FIFO"),
        (raw("s", "S", b"") + END, "forbidden", "sparse"),
        (raw("7", "7", b"") + END, "forbidden", "unknown kind b'7'"),
        (raw("g", "g", b"") + FILE + END, "forbidden", "global header"),
        (raw("K", "K", b"/etc/passwd\0") + raw("l", "2", b"") + END, "forbidden", "long link name"),
        (raw("../x", "0", b"") + END, "forbidden", "'../x'"),
        (raw("a/../../x", "0", b"") + END, "forbidden", "without '..'"),
        (raw("a/./x", "0", b"") + END, "forbidden", "relative path"),
        (raw("/abs", "0", b"") + END, "forbidden", "'/abs'"),
        (raw(".//etc", "0", b"") + END, "forbidden", "relative"),
        (raw("a//b", "0", b"") + END, "forbidden", "relative"),
        (raw("a\nb", "0", b"") + END, "forbidden", "printable"),
        (raw("a\x1b[2J", "0", b"") + END, "forbidden", "printable"),
        (raw("a\udcff", "0", b"") + END, "forbidden", "UTF-8"),
        (raw("d/" * 17 + "x", "0", b"") + END, "forbidden", "levels"),
        (FILE + FILE + END, "forbidden", "'a' twice"),
        (FILE + raw("./a", "0", b"") + END, "forbidden", "'a' twice"),
        (FILE + raw("a/b", "0", b"") + END, "forbidden", "twice"),
        (FILE + raw("a", "5", b"") + END, "forbidden", "twice"),
        (raw("a/b", "0", b"") + FILE + END, "forbidden", "twice"),
        (raw("d", "5", b"x") + END, "format", "folder 'd' has 1 bytes"),
        (END, "missing", "empty"),
        (raw("d", "5", b"") + END, "missing", "empty"),
        (b"", "format", "in the middle"),
        (FILE, "format", "in the middle"),
        (FILE + bytes(512), "format", "in the middle"),
        (FILE[:700], "format", "in the middle"),
        (FILE + END + FILE, "format", "goes on"),
        (FILE[:512].replace(b"a", b"b", 1) + FILE[512:] + END, "format", "checksum"),
        (b"PK\3\4" + bytes(1020), "format", "unknown format"),
        (b"\x1f\x8b" + bytes(2000), "format", "unknown format"),
        (raw("huge", "0", b"", size=7 << 30) + END, "too_large", "10000 bytes"),
        (raw("big", "0", b"x" * 10_001) + END, "too_large", "10000 bytes"),
        (raw("a", "0", b"x" * 6000) + raw("b", "0", b"x" * 6000) + END, "too_large", "'b' (6000 bytes)"),
        (b"".join(raw(f"f{i}", "0", b"") for i in range(6)) + END, "too_large", "the 5 files"),
        (pax("good", path="../evil") + END, "forbidden", "'../evil'"),
        (pax("good", path="/abs") + END, "forbidden", "'/abs'"),
        (pax("good", linkpath="/etc/passwd") + END, "forbidden", "'linkpath'"),
        (pax("good", size="99999999") + END, "forbidden", "'size'"),
        (pax("good", GNU__sparse__major="1") + END, "forbidden", "'GNU.sparse.major'"),
        (pax("good", SCHILY__xattr__user="x") + END, "forbidden", "attribute"),
        (raw("x", "x", b"9 path=a\n" * 2) + FILE + END, "format", "names an entry twice"),
        (raw("x", "x", b"99999 path=a\n") + FILE + END, "format", "broken"),
        (raw("x", "x", b"2 path=a\n") + FILE + END, "format", "broken"),
        (raw("x", "x", b"no record") + FILE + END, "format", "broken"),
        (raw("x", "L", b"one\0") + raw("x", "L", b"two\0") + FILE + END, "format", "in a row"),
        (raw("x", "L", b"../evil\0") + FILE + END, "forbidden", "'../evil'"),
        (raw("x", "L", b"n" * 9000) + FILE + END, "forbidden", "9000 bytes"),
        (raw("x", "L", b"n" * 600) + FILE + END, "forbidden", "bytes per part"),
    ],
)
async def test_every_trick_is_refused_and_leaves_nothing(tmp_path: Path, tar: bytes, code: str, said: str) -> None:
    with pytest.raises(InvalidSubmission) as caught:
        await store(tar, tmp_path)
    assert caught.value.code == code
    assert said in caught.value.sentence
    assert leftovers(tmp_path) == []


async def test_a_base_256_size_is_refused(tmp_path: Path) -> None:
    tar = tar_of(("a", None, b""), form=tarfile.GNU_FORMAT)
    header = bytearray(tar[:512])
    header[124:136] = b"\x80" + bytes(10) + b"\x01"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(InvalidSubmission, match="octal"):
        await store(bytes(header) + END, tmp_path)


class Endless(io.RawIOBase):
    """A tar of files or folders without end, made as it is read; counts what was read."""

    def __init__(self, make: Callable[[int], bytes]) -> None:
        self.make, self.count, self.rest = make, 0, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.rest:
            self.rest = self.make(self.count)
            self.count += 1
        size = min(len(buffer), len(self.rest))
        buffer[:size], self.rest = self.rest[:size], self.rest[size:]
        return size


@pytest.mark.parametrize("kind", ["0", "5"])
async def test_a_million_entries_are_refused_early(tmp_path: Path, kind: str) -> None:
    source = Endless(lambda count: raw(f"n{count}", kind, b""))
    with pytest.raises(InvalidSubmission, match="more than") as caught:
        await store_snapshot(source, tmp_path, max_bytes=100, max_files=5)
    assert caught.value.code == "too_large"
    assert source.count < 1100
    assert leftovers(tmp_path) == []


async def test_an_endless_stream_of_packed_roots_is_refused(tmp_path: Path) -> None:
    source = Endless(lambda _count: raw("./", "5", b""))
    with pytest.raises(InvalidSubmission, match="more than"):
        await store_snapshot(source, tmp_path, max_bytes=100, max_files=5)


@pytest.mark.parametrize("digest", ["", "..", "0" * 64, "0" * 63, "../" + "0" * 64])
async def test_an_unknown_digest_is_not_found(tmp_path: Path, digest: str) -> None:
    with pytest.raises(FileNotFoundError):
        await load_snapshot(tmp_path, digest)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8), st.integers(0, 5000))
def test_a_damaged_tar_yields_plain_names_or_is_refused(damage: list[tuple[int, int]], cut: int) -> None:
    tar = bytearray(pax("p", path="long/name") + FILE + raw("x", "L", b"other\0") + raw("d/e", "0", b"y") + END)
    for place, value in damage:
        tar[place % len(tar)] = value
    if cut < len(tar) and cut % 3 == 0:
        del tar[cut:]
    try:
        for entry, content in read_tar(io.BytesIO(bytes(tar)), max_entries=9):
            assert entry.name
            assert not entry.name.startswith("/")
            assert ".." not in entry.name.split("/")
            assert sum(map(len, content)) == entry.size
    except InvalidSubmission:
        pass
