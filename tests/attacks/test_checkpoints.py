"""Workspaces made to break a snapshot, to hide a change from it, or to lead a restore astray."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
import pytest

from tests.attacks.conftest import Arena, alive, both, python
from tests.serving.conftest import text_of

pytestmark = pytest.mark.anyio


async def snapshot(arena: Arena, session: dict[str, Any]) -> dict[str, Any]:
    taken: dict[str, Any] = await anyio.to_thread.run_sync(
        arena.server.api, "POST", f"/sessions/{session['id']}/snapshots"
    )
    return taken


async def restore(arena: Arena, session: dict[str, Any], taken: dict[str, Any]) -> None:
    path, body = f"/sessions/{session['id']}/restore", {"snapshot": taken["id"]}
    await anyio.to_thread.run_sync(arena.server.api, "POST", path, body)


@both
async def test_links_in_place_of_folders_lead_a_restore_nowhere(arena: Arena) -> None:
    async with arena.playing() as (client, session):
        await text_of(client, "shell", command="mkdir -p a/b c; echo inside > a/b/file; echo c > c/file")
        taken = await snapshot(arena, session)
        await text_of(
            client,
            "shell",
            command="mkdir -p /tmp/out/b; echo outside > /tmp/out/b/file; rm -rf a c; ln -s /tmp/out a; ln -s /data c; "
            "ln -s /proc/1/root p; ln -s / root; ln -s . loop",
        )
        await restore(arena, session, taken)
        said = await text_of(
            client, "shell", command="cat /tmp/out/b/file a/b/file c/file; ls -A; test ! -L a && echo ok"
        )
        assert said.startswith("outside\ninside\nc\na\nc\nstart.py\nok\n")
        again = await snapshot(arena, session)
        assert again["new_bytes"] == 0


async def test_a_change_through_memory_or_with_times_set_back_is_not_missed(arena: Arena) -> None:
    mapped = (
        "import mmap, os, time\n"
        "open('m', 'wb').write(bytes(4096))\n"
        "f = open('m', 'r+b'); view = mmap.mmap(f.fileno(), 4096)\n"
        "view[0:1] = b'1'; open('first', 'w').close()\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "view[0:1] = b'2'; open('second', 'w').close()\n"
        "time.sleep(1000)\n"
    )
    wait = "until test -e {}; do sleep 0.01; done"
    async with arena.playing() as (client, session):
        await text_of(client, "write_file", path="mapped.py", content=mapped)
        await text_of(client, "shell", command=f"echo one > t; python3 mapped.py >&- 2>&- & {wait.format('first')}")
        first = await snapshot(arena, session)
        back = "touch -r t r; printf 'two\\n' > t; touch -r r t; touch go; "
        await text_of(client, "shell", command=back + wait.format("second"))
        second = await snapshot(arena, session)
        await restore(arena, session, first)
        assert (await text_of(client, "shell", command="cat t; head -c 1 m")).startswith("one\n1")
        await restore(arena, session, second)
        assert (await text_of(client, "shell", command="cat t; head -c 1 m")).startswith("two\n2")


async def test_a_large_write_in_progress_is_never_kept_half(arena: Arena) -> None:
    program = (
        "import os, itertools\n"
        "f = os.open('w', os.O_RDWR | os.O_CREAT)\n"
        "for i in itertools.count():\n"
        "    os.pwrite(f, bytes([65 + i % 26]) * (4 << 20), 0)\n"
        "    open('begun', 'w').close()\n"
    )
    check = python("data = open('w', 'rb').read(); print(len(data) >> 20, len(set(data)))")
    async with arena.playing() as (client, session):
        await text_of(client, "write_file", path="writer.py", content=program)
        await text_of(client, "shell", command="python3 writer.py >&- 2>&- & until test -e begun; do sleep 0.01; done")
        taken = [await snapshot(arena, session) for _ in range(2)]
        for each in taken:
            await restore(arena, session, each)
            assert (await text_of(client, "shell", command=check)).startswith("4 1\n")


async def test_folders_too_deep_closed_and_full_are_kept_as_far_as_they_can_and_removed_whole(arena: Arena) -> None:
    deep = (
        "import os\n"
        "os.mkdir('deep'); os.chdir('deep')\n"
        "for _ in range(3000):\n"
        "    os.mkdir('d' * 20); os.chdir('d' * 20)\n"
        "open('bottom', 'w').close()\n"
    )
    async with arena.playing() as (client, session):
        before = await snapshot(arena, session)
        await text_of(client, "shell", command=python(deep))
        await text_of(
            client,
            "shell",
            command="mkdir -p shut/in; touch shut/in/f; chmod 0 shut/in shut; mkfifo pipe; mkdir many; "
            "cd many; seq 3000 | xargs touch; cd ..; chmod 500 many",
        )
        full = await snapshot(arena, session)
        assert {"pipe", "shut"} <= full["left_out"].keys()
        assert any(name.startswith("deep/") for name in full["left_out"])
        await restore(arena, session, before)
        assert (await text_of(client, "shell", command="ls -A")).startswith("start.py\n")
        await restore(arena, session, full)
        assert (await text_of(client, "shell", command="ls many | wc -l; stat -c %a many")).startswith("3000\n500\n")
        await restore(arena, session, before)
        await alive(client)


async def test_the_agent_has_no_tool_for_snapshots(arena: Arena) -> None:
    async with arena.playing() as (client, _):
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert not {name for name in names if "snapshot" in name or "restore" in name or "fork" in name}
