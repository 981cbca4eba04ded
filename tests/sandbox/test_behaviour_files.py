"""What every backend promises: files, searches and snapshots."""

from __future__ import annotations

import io
import os
import tarfile
from typing import Any

import anyio
import pytest

from mlgym_sandbox import Sandbox, SandboxError, SandboxFileError, TarLimitError
from tests.sandbox.conftest import Place, run

pytestmark = pytest.mark.anyio

MIB = 1 << 20
PLENTY: dict[str, Any] = {"max_bytes": 100 * MIB, "max_files": 1000}


def made_tar(*members: tuple[str, bytes, bytes | str]) -> bytes:
    """A tar of (name, type, contents or link target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
            if isinstance(content, str):
                info.linkname = content
                content = b""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def contents(data: bytes) -> dict[str, bytes | None]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = archive.getmembers()
        assert all(member.isreg() or member.isdir() for member in members)
        files = {member.name: archive.extractfile(member) for member in members}
        return {name: file.read() if file else None for name, file in files.items()}


# --- reading and writing


@pytest.mark.parametrize("size", [0, 1, 10_000, 1 * MIB, 1 * MIB + 1, 5 * MIB + 3])
async def test_what_is_written_is_read_again(box: Sandbox, size: int) -> None:
    data = os.urandom(size)
    await box.write_file("/workspace/deep/er/naïve name\n.bin", data)
    chunk = await box.read_file("deep/er/naïve name\n.bin", limit=10 * MIB)
    assert (chunk.data, chunk.size, chunk.offset) == (data, size, 0)
    middle = await box.read_file("deep/er/naïve name\n.bin", offset=size // 2, limit=7)
    assert middle.data == data[size // 2 : size // 2 + 7]
    _, owner = await run(box, "stat -c '%u %a' deep/er/*; id -u; ls -A deep/er | wc -l")
    assert owner.split()[0] == owner.split()[2]
    assert owner.split()[1] == "644"


async def test_writing_replaces_keeps_the_mode_and_follows_links(box: Sandbox) -> None:
    await run(box, "echo old > real; chmod 751 real; ln -s real link; mkdir d; ln -s ../real d/link")
    await box.write_file("link", b"new")
    await box.write_file("d/link", b"newer")
    _, output = await run(box, "cat real; stat -c %a real; readlink link; ls -A | sort | tr '\\n' ' '")
    assert output == "newer751\nreal\nd link real "


async def test_appending_adds_at_the_end(box: Sandbox) -> None:
    await box.write_file("log", b"a", append=True)
    await box.write_file("log", b"b" * (2 * MIB), append=True)
    assert (await box.read_file("log", limit=3 * MIB)).data == b"a" + b"b" * (2 * MIB)


async def test_a_broken_off_upload_leaves_nothing(box: Sandbox, place: Place) -> None:
    await box.write_file("kept", b"before")
    with anyio.move_on_after(0.01) as scope:
        await box.write_file("kept", bytes(200 * MIB))
    assert scope.cancelled_caught
    with anyio.fail_after(5):
        while [entry.path for entry in (await box.list_files("/workspace")).entries] != ["kept"]:
            await anyio.sleep(0.02)
    assert (await box.read_file("kept")).data == b"before"


async def test_what_is_no_regular_file_is_refused_in_words(box: Sandbox) -> None:
    await run(box, "mkdir dir; mkfifo fifo; touch file; ln -s loop loop; ln -s nowhere dangling")
    for path, words in {
        "missing": "missing does not exist",
        "dir": "dir is a directory",
        "fifo": "fifo is a named pipe",
        "/dev/zero": "/dev/zero is a device",
        "file/below": "not a directory",
        "loop": "symbolic links",
        "dangling": "does not exist",
        "": "is no path",
        "nul\0": "is no path",
        "x" * 300: "name that is too long",
    }.items():
        with anyio.fail_after(5), pytest.raises(SandboxFileError, match=words):
            await box.read_file(path)
    for path, words in {
        "dir": "dir is a directory",
        "fifo": "fifo is a named pipe",
        "new/": "names a directory",
    }.items():
        for append in (True, False):
            with anyio.fail_after(5), pytest.raises(SandboxFileError, match=words):
                await box.write_file(path, b"x", append=append)
    with pytest.raises(SandboxFileError, match="negative"):
        await box.read_file("file", offset=-1)
    with pytest.raises(SandboxFileError, match="does not exist"):
        await box.stat("missing")


async def test_a_named_pipe_with_a_writer_does_not_block(box: Sandbox) -> None:
    await run(box, "mkfifo fifo; (cat /dev/zero > fifo &)")
    with anyio.fail_after(5), pytest.raises(SandboxFileError, match="named pipe"):
        await box.read_file("fifo")


async def test_data_is_read_only(box: Sandbox) -> None:
    assert (await box.read_file("/data/train.csv")).data == b"id,label\n1,2\n"
    for path in ("/data/new", "/data/train.csv", "/data/sub/new"):
        with pytest.raises(SandboxFileError, match="read-only"):
            await box.write_file(path, b"x")
    with pytest.raises(SandboxFileError, match="read-only"):
        await box.untar(made_tar(("x", tarfile.REGTYPE, b"x")), "/data")


async def test_a_file_without_permission_is_refused(box: Sandbox, place: Place) -> None:
    await run(box, "echo x > secret; chmod 000 secret; mkdir closed; touch closed/x; chmod 000 closed")
    if not place.isolates and os.geteuid() == 0:
        pytest.skip("root may read everything")
    for path in ("secret", "closed/x"):
        with pytest.raises(SandboxFileError, match="permission denied"):
            await box.read_file(path)
        with pytest.raises(SandboxFileError, match="permission denied"):
            await box.write_file(path, b"x")
    await run(box, "chmod 700 closed; rm -rf closed secret")


async def test_a_huge_sparse_file_is_read_piece_by_piece(box: Sandbox) -> None:
    status, output = await run(box, "truncate -s 5G sparse && printf end >> sparse")
    if status.exit_code != 0:
        assert (
            "File too large" in output or "File size limit" in output
        )  # a limit on files stands in for one on the disk
        pytest.skip("files of that size are not allowed here")
    chunk = await box.read_file("sparse", offset=(5 << 30) - 2, limit=100)
    assert (chunk.data, chunk.size) == (b"\0\0end", (5 << 30) + 3)
    assert (await box.read_file("sparse", offset=6 << 30)).data == b""
    assert len((await box.read_file("sparse", limit=2 * MIB)).data) == 2 * MIB


# --- listing and searching


async def test_a_listing_is_sorted_deep_and_bounded(box: Sandbox) -> None:
    await run(box, "mkdir -p a/b/c .hidden; echo 12345 > a/f; touch a/b/c/deep .dot z; ln -s z link; mkfifo fifo")
    listing = await box.list_files("/workspace")
    assert [(entry.path, entry.kind) for entry in listing.entries] == [
        (".dot", "file"),
        (".hidden", "dir"),
        ("a", "dir"),
        ("fifo", "other"),
        ("link", "link"),
        ("z", "file"),
    ]
    assert not listing.truncated
    deep = await box.list_files(".", depth=3, hidden=False)
    assert [entry.path for entry in deep.entries] == ["a", "a/b", "a/b/c", "a/f", "fifo", "link", "z"]
    assert {entry.path: entry.size for entry in deep.entries}["a/f"] == 6
    cut = await box.list_files(".", depth=9, limit=3)
    assert (len(cut.entries), cut.truncated) == (3, True)
    assert [entry.path for entry in (await box.list_files("a/f")).entries] == ["f"]
    with pytest.raises(SandboxFileError, match="does not exist"):
        await box.list_files("nowhere")


async def test_names_that_are_not_text_do_no_harm(box: Sandbox) -> None:
    await run(box, r"touch $'bad\xff\xfename' $'new\nline'; echo needle > $'bad\xff'")
    listing = await box.list_files(".")
    assert len(listing.entries) == 3
    "".join(entry.path for entry in listing.entries).encode()
    assert len((await box.search("needle", ".")).matches) == 1


async def test_a_directory_of_many_files_is_listed_in_part(box: Sandbox) -> None:
    await run(box, "mkdir many; cd many; seq 5000 | xargs touch")
    listing = await box.list_files("many", limit=100)
    assert (len(listing.entries), listing.truncated) == (100, True)


async def test_a_folder_nested_without_end_can_be_listed_and_searched(box: Sandbox) -> None:
    dig = "import os\nfor n in range(1500):\n    os.mkdir('d'); os.chdir('d')\n"
    await run(box, ["python3", "-c", dig])
    with anyio.fail_after(20):
        assert (await box.list_files(".", depth=5000, limit=5000)).entries
        await box.search("x", ".")
    await run(box, "rm -rf d")


async def test_a_search_finds_lines_by_expression(box: Sandbox) -> None:
    await box.write_file("src/a.py", b"import os\nNeedle = 1\n# needle\n")
    await box.write_file("src/b.txt", "naïve needle\r\n".encode())
    await box.write_file("binary", b"needle\0")
    await run(box, "ln -s src/a.py link; mkfifo fifo")
    found = await box.search("needle", "/workspace")
    assert [(match.path, match.line, match.text) for match in found.matches] == [
        ("src/a.py", 3, "# needle"),
        ("src/b.txt", 1, "naïve needle"),
    ]
    assert (found.files_searched, found.truncated) == (2, False)
    assert len((await box.search(r"^n\w+ =", ".", ignore_case=True)).matches) == 1
    assert [match.path for match in (await box.search("needle", ".", glob="*.py")).matches] == ["src/a.py"]
    assert [match.path for match in (await box.search("needle", ".", glob="src/*.txt")).matches] == ["src/b.txt"]
    assert (await box.search("needle", ".", limit=1)).truncated
    assert len((await box.search("needle", "src/a.py")).matches) == 1
    with pytest.raises(SandboxError, match="regular expression"):
        await box.search("(", ".")
    with pytest.raises(SandboxFileError, match="does not exist"):
        await box.search("x", "nowhere")


async def test_a_search_that_would_take_for_ever_ends_in_time_with_what_it_found(box: Sandbox) -> None:
    await box.write_file("a", b"aaaa!\n")
    await box.write_file("b", b"a" * 60 + b"b\n")
    with anyio.fail_after(8):
        found = await box.search(r"^(a+)+!$", ".", timeout_s=0.5)
    assert found.truncated
    assert [match.path for match in found.matches] == ["a"]


# --- snapshots


async def test_a_snapshot_holds_what_the_globs_name(box: Sandbox) -> None:
    for name in ("out/model.bin", "out/sub/x.txt", "code.py", "other.txt", "out/.hidden"):
        await box.write_file(name, name.encode())
    await run(box, "mkdir out/empty; chmod 755 code.py")

    async def names(*patterns: str) -> list[str]:
        return sorted(contents(await box.tar(patterns, **PLENTY)))

    tree = ["out/.hidden", "out/empty", "out/model.bin", "out/sub", "out/sub/x.txt"]
    assert await names("out/**") == tree
    assert await names("out") == ["out", *tree]
    assert await names("*.py", "missing", "nothing/*", "code.py") == ["code.py"]
    assert await names("**/*.txt") == ["other.txt", "out/sub/x.txt"]
    assert await names("out/[ms]*") == ["out/model.bin", "out/sub", "out/sub/x.txt"]
    assert await names() == []
    data = await box.tar(["code.py"], **PLENTY)
    assert contents(data) == {"code.py": b"code.py"}
    for bad in ("/etc/passwd", "../x", "a/../../x", ""):
        with pytest.raises(SandboxError, match="relative"):
            await box.tar([bad], **PLENTY)


async def test_a_snapshot_refuses_all_but_regular_files_by_name(box: Sandbox) -> None:
    await run(
        box, "mkdir d out; ln -s /etc/passwd d/link; mkfifo fifo; ln -s d through; echo x > out/file; ln -s / out2"
    )
    for pattern in ("d/**", "d", "d/link", "fifo", "through/*", "**", "out2/etc/passwd", "out2"):
        with anyio.fail_after(10), pytest.raises(TarLimitError, match=r"link|pipe"):
            await box.tar([pattern], **PLENTY)
    assert contents(await box.tar(["out/**"], **PLENTY)) == {"out/file": b"x\n"}


async def test_a_snapshot_is_bounded_in_bytes_and_files_and_sparse_counts_in_full(box: Sandbox) -> None:
    await run(
        box, "mkdir many; touch many/{1..20}; truncate -s 50M sparse; head -c 1000 /dev/zero > small; ln small hard"
    )
    with pytest.raises(TarLimitError, match=r"1048576 bytes.*sparse"):
        await box.tar(["sparse"], max_bytes=MIB, max_files=10)
    with pytest.raises(TarLimitError, match="10 files"):
        await box.tar(["many/*"], max_bytes=MIB, max_files=10)
    assert contents(await box.tar(["small", "hard"], max_bytes=2000, max_files=2)) == {
        "small": bytes(1000),
        "hard": bytes(1000),
    }
    with pytest.raises(TarLimitError, match="1999 bytes"):
        await box.tar(["small", "hard"], max_bytes=1999, max_files=2)


async def test_a_snapshot_of_many_megabytes_arrives_whole(box: Sandbox) -> None:
    data = os.urandom(20 * MIB)
    await box.write_file("big", data)
    assert contents(await box.tar(["big"], **PLENTY)) == {"big": data}


async def test_the_agent_stands_still_during_a_snapshot_and_goes_on_after_it(box: Sandbox) -> None:
    # Two files that a busy writer always changes together: a snapshot must not see one without the other.
    writer = """
import os
n = 0
while True:
    n += 1
    for name in ("a", "b"):
        with open("pair/" + name, "w") as file: file.write(str(n))
"""
    await box.write_file("writer.py", writer.encode())
    await run(box, "mkdir pair; echo 0 > pair/a; echo 0 > pair/b; mkdir -p pair/ballast; touch pair/ballast/{1..200}")
    job = await box.start("python3 writer.py")
    seen = set()
    for _ in range(5):
        files = contents(await box.tar(["pair/**"], **PLENTY))
        a, b = (int(files[f"pair/{name}"] or b"-1") for name in ("a", "b"))
        if a >= 0 and b >= 0:
            assert 0 <= a - b <= 1
        seen.add(a)
        before = (await box.read_file("pair/a")).data
        with anyio.fail_after(5):
            while (await box.read_file("pair/a")).data in (before, b""):
                await anyio.sleep(0.01)
    assert len(seen) > 1
    await box.stop(job.id, grace_s=0)


async def test_what_was_packed_can_be_unpacked(box: Sandbox) -> None:
    data = os.urandom(3 * MIB)
    packed = made_tar(
        ("d", tarfile.DIRTYPE, b""), ("d/x/big.bin", tarfile.REGTYPE, data), ("./e", tarfile.REGTYPE, b"e")
    )
    await box.untar(packed)
    await box.untar(packed, "/workspace/again")
    assert (await box.read_file("d/x/big.bin", limit=4 * MIB)).data == data
    assert (await box.read_file("again/e")).data == b"e"
    _, output = await run(box, "stat -c %u d/x/big.bin; id -u; echo more >> e; cat e")
    owner, me, text = output.split()
    assert (owner, text) == (me, "emore")


@pytest.mark.parametrize(
    "member",
    [
        ("link", tarfile.SYMTYPE, "/etc/passwd"),
        ("hard", tarfile.LNKTYPE, "e"),
        ("device", tarfile.CHRTYPE, b""),
        ("fifo", tarfile.FIFOTYPE, b""),
        ("../out", tarfile.REGTYPE, b"x"),
        ("/tmp/out", tarfile.REGTYPE, b"x"),
        ("a/../../out", tarfile.REGTYPE, b"x"),
    ],
    ids=lambda member: member[0],
)
async def test_unpacking_refuses_links_devices_and_names_outside(
    box: Sandbox, member: tuple[str, bytes, bytes | str]
) -> None:
    with anyio.fail_after(10), pytest.raises(TarLimitError):
        await box.untar(made_tar(("fine", tarfile.REGTYPE, bytes(2 * MIB)), member, ("e", tarfile.REGTYPE, bytes(MIB))))
    assert (await run(box, "echo alive"))[1] == "alive\n"


async def test_unpacking_what_is_no_archive_is_refused(box: Sandbox) -> None:
    with anyio.fail_after(10), pytest.raises(TarLimitError, match="no sound tar"):
        await box.untar(os.urandom(100_000))
