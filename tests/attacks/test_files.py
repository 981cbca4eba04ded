"""Files that are huge, growing, many, or of awkward shape, and patterns that never end."""

from __future__ import annotations

import time

import anyio
import pytest

from mlgym_mcp.tools.reply import MAX_CHARS
from tests.attacks.conftest import Arena, alive, both, python
from tests.serving.conftest import text_of

pytestmark = pytest.mark.anyio


async def test_a_line_of_many_megabytes_is_cut_and_the_lines_after_it_are_reached(arena: Arena) -> None:
    before = arena.server.memory_mb("VmRSS")
    async with arena.playing() as (client, _):
        await text_of(
            client, "shell", command="(echo first; head -c 40M /dev/zero | tr '\\0' x; echo; echo last) > long.txt"
        )
        await text_of(client, "shell", command="head -c 5M /dev/zero | tr '\\0' y > noend.txt")
        text = await text_of(client, "read_file", path="long.txt")
        assert len(text) <= MAX_CHARS
        assert "     1\tfirst" in text
        assert "[line cut: " in text
        with anyio.fail_after(20):
            assert await text_of(client, "read_file", path="long.txt", offset=3) == "     3\tlast"
        assert (await client.call_tool("read_file", {"path": "noend.txt", "offset": 5000})).is_error
        assert len(await text_of(client, "read_file", path="noend.txt")) <= MAX_CHARS
        for tool, arguments in (
            ("search_files", {"pattern": "last"}),
            ("edit_file", {"path": "long.txt", "old": "first", "new": "second"}),
        ):
            assert len(await text_of(client, tool, **arguments)) <= MAX_CHARS
        await alive(client)
    assert arena.server.memory_mb("VmRSS") < before + 150


async def test_a_file_of_five_gigabytes_is_read_at_its_beginning_only(arena: Arena) -> None:
    async with arena.playing() as (client, _):
        made = await text_of(client, "shell", command="truncate -s 5G binary; seq 10000 > text; truncate -s 5G text")
        if "File too large" in made or "File size limit" in made:
            return  # an ordinary user's sandbox allows no such file (and a skip would cut the session off)
        with anyio.fail_after(20):
            result = await client.call_tool("read_file", {"path": "binary"})
            assert result.is_error
            assert "is a binary file (5.0 GiB)" in result.content[0].text
            assert "     1\t1\n" in await text_of(client, "read_file", path="text", limit=10)
            assert (await client.call_tool("edit_file", {"path": "text", "old": "1", "new": "2"})).is_error
        with anyio.fail_after(30):  # far into it: bounded in time, and others are served meanwhile
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.call_tool, "read_file", {"path": "text", "offset": 900_000_000})
                await anyio.sleep(0.5)
                begun = time.monotonic()
                await client.call_tool("status", {})
                assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("(a+)+$", "a" * 40 + "!"),
        ("(a|a)*b", "a" * 60),
        ("^(([a-z])+.)+[A-Z]([a-z])+$", "a" * 60),
        ("(.*)*(.*)*(.*)*x", "y" * 200),
        ("(?i)" + "[\u0001-\U0010ffff]" * 200, "x"),
        ("(" * 480 + ")" * 480, "x"),
        ("(?:x{0,60000}){0,60000}", "x" * 100),
        ("(?=" * 200 + ")" * 200, "x"),
    ],
    ids=range(8),
)
async def test_a_pattern_that_backtracks_for_ever_freezes_nobody(arena: Arena, pattern: str, text: str) -> None:
    async with arena.playing() as (client, _), arena.playing() as (other, _):
        await text_of(client, "write_file", path="bait.txt", content=f"{text}\n" * 50)
        await text_of(other, "shell", command="true")
        with anyio.fail_after(25):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.call_tool, "search_files", {"pattern": pattern})
                await anyio.sleep(0.2)
                begun = time.monotonic()
                await alive(other)
                assert time.monotonic() - begun < 4
                tasks.cancel_scope.cancel()
        await alive(client)


async def test_an_endless_search_ends_by_itself_and_says_so(arena: Arena) -> None:
    async with arena.playing() as (client, _):
        await text_of(client, "write_file", path="bait.txt", content="a" * 40 + "!\n")
        with anyio.fail_after(25):
            result = await client.call_tool("search_files", {"pattern": "(a+)+$"})
        assert "The search took too long" in result.content[0].text


async def test_a_near_match_in_a_hostile_file_is_not_looked_for_without_end(arena: Arena) -> None:
    async with arena.playing() as (client, _), arena.playing() as (other, _):
        await text_of(client, "shell", command="yes a | head -c 3900000 > many.txt")
        for old in ("b" * 1_500_000, ("a  " * 500_000), "a\n" * 300_000, "a\n"):
            with anyio.fail_after(20):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.call_tool, "edit_file", {"path": "many.txt", "old": old, "new": "c"})
                    await anyio.sleep(0.1)
                    begun = time.monotonic()
                    await other.call_tool("status", {})
                    assert time.monotonic() - begun < 4


async def test_edits_keep_the_line_ends_of_a_file_and_count_lines_as_reading_does(arena: Arena) -> None:
    async with arena.playing() as (client, _):

        async def content(name: str) -> str:
            show = f'python3 -c \'print(ascii(open("{name}", newline="").read()))\''
            shown = await text_of(client, "shell", command=show)
            return str(eval(shown.splitlines()[0]))

        await text_of(client, "shell", command=r"printf 'one\r\ntwo\r\nthree\r\n' > crlf.txt")
        await text_of(client, "edit_file", path="crlf.txt", old="one\ntwo", new="1\n2\n2b")
        assert await content("crlf.txt") == "1\r\n2\r\n2b\r\nthree\r\n"
        await text_of(client, "edit_file", path="crlf.txt", new="last", first_line=4, last_line=4)
        assert await content("crlf.txt") == "1\r\n2\r\n2b\r\nlast\r\n"
        await text_of(client, "edit_file", path="crlf.txt", new="a\nb", first_line=1, last_line=0)
        assert await content("crlf.txt") == "a\r\nb\r\n1\r\n2\r\n2b\r\nlast\r\n"

        await text_of(client, "write_file", path="bare.txt", content="one\ntwo")
        await text_of(client, "edit_file", path="bare.txt", old="two", new="2")
        assert await content("bare.txt") == "one\n2"
        await text_of(client, "edit_file", path="bare.txt", new="3", first_line=3, last_line=2)
        assert await content("bare.txt") == "one\n2\n3\n"

        odd = "a\x0bb\x0cc\x85d\u2028e\rf\ntwo\nthree\n"
        await text_of(client, "write_file", path="odd.txt", content=odd)
        assert "     2\ttwo" in await text_of(client, "read_file", path="odd.txt")
        await text_of(client, "edit_file", path="odd.txt", new="2", first_line=2, last_line=2)
        assert await content("odd.txt") == odd.replace("two", "2")

        await text_of(client, "write_file", path="empty.txt", content="")
        for arguments in (
            {"path": "empty.txt"},
            {"path": "odd.txt", "old": "", "new": ""},
            {"path": "odd.txt", "old": "2", "new": "2"},
            {"path": "empty.txt", "old": "x", "new": "y"},
            {"path": "empty.txt", "new": "x", "first_line": 2, "last_line": 2},
        ):
            assert (await client.call_tool("edit_file", arguments)).is_error, arguments
        await text_of(client, "edit_file", path="empty.txt", new="x", first_line=1, last_line=0)
        assert await content("empty.txt") == "x\n"


@both
async def test_a_tree_of_many_thousand_files_is_listed_and_searched_in_part(arena: Arena) -> None:
    tree = python("""
import os
for d in range(80):
    os.makedirs(f"t/{d}")
    for i in range(100):
        os.close(os.open(f"t/{d}/{'n' * 60}{i}", os.O_CREAT | os.O_WRONLY))
""")
    async with arena.playing() as (client, _):
        await text_of(client, "shell", command=tree)
        with anyio.fail_after(30):
            text = await text_of(client, "list_files", path=".", depth=10)
            assert len(text) <= MAX_CHARS + 200
            assert "more entries were left out" in text
            await text_of(client, "search_files", pattern="x")
        await alive(client)


async def test_deep_folders_and_the_whole_of_usr_are_listed_in_part(arena: Arena) -> None:
    async with arena.playing() as (client, _):
        await text_of(client, "shell", command="mkdir deep; cd deep; for i in $(seq 600); do mkdir d; cd d; done; cd ~")
        with anyio.fail_after(20):
            assert "d/" in await text_of(client, "list_files", path="deep", depth=10)
            await text_of(client, "search_files", pattern="x", path="deep")
            result = await client.call_tool("list_files", {"path": "/usr", "depth": 10})
        assert "more entries were left out" in result.content[0].text
        assert len(result.content[0].text) <= MAX_CHARS + 200


async def test_files_that_change_while_they_are_read_do_no_harm(arena: Arena) -> None:
    change = """
import os, random, threading
def grow():
    while True:
        with open("grow.txt", "a") as out: out.write("line\\n" * 1000)
        if os.path.getsize("grow.txt") > 8 << 20: os.truncate("grow.txt", 0)
def turn():
    while True:
        for make in (lambda: os.mkdir("turn"), lambda: open("turn", "w").close(), lambda: os.mkfifo("turn"),
                     lambda: os.symlink("/etc/passwd", "turn"), lambda: os.symlink("/proc/1/environ", "turn")):
            try: make()
            except OSError: pass
            try: os.unlink("turn")
            except OSError:
                try: os.rmdir("turn")
                except OSError: pass
threading.Thread(target=grow).start()
turn()
"""
    async with arena.playing() as (client, _):
        await text_of(client, "write_file", path="change.py", content=change)
        await text_of(client, "shell", command="touch grow.txt; python3 change.py & sleep 0.2")
        with anyio.fail_after(40):
            for i in range(12):
                for tool, arguments in (
                    ("read_file", {"path": "grow.txt", "offset": 1 + 500 * i}),
                    ("read_file", {"path": "turn"}),
                    ("search_files", {"pattern": "line$", "path": "grow.txt"}),
                    ("list_files", {"path": "."}),
                    ("write_file", {"path": "turn", "content": "x"}),
                    ("edit_file", {"path": "turn", "old": "x", "new": "y"}),
                ):
                    text = await text_of(client, tool, **arguments)
                    assert "Traceback" not in text
                    assert "internal" not in text, (tool, text)
                    assert len(text) <= MAX_CHARS
                    assert "PATH=" not in text
        await text_of(client, "shell", command="pkill -9 -f change.py; true")
        await alive(client)
