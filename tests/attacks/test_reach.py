"""What a command must not reach: the server, its files, other sessions, the machine, the network."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import anyio
import pytest

from tests.attacks.conftest import Arena, alive, both, python
from tests.serving.conftest import text_of

pytestmark = pytest.mark.anyio

LOOK = """
import glob, json, os, socket, stat
def read(path, limit=1 << 20):
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(fd, limit)
    except OSError:
        return b""
    finally:
        os.close(fd)
seen = {"files": [], "sockets": [], "words": [], "fds": [], "written": []}
wanted = {"events.jsonl", "labels.json", "world.json", "admin.token", "grader.py", "generator.py", "server.log",
          "host.sock", "host.lock", "notes.jsonl", "docker.sock", "manifest.json"}
for folder, folders, files in os.walk("/"):
    if folder in ("/proc", "/sys"):
        folders.clear()
        continue
    if folder.startswith(("/usr/lib", "/usr/share", "/opt/env", "/lib")) or "/site-packages" in folder:
        folders.clear()
    for name in files:
        path = os.path.join(folder, name)
        if name in wanted:
            seen["files"].append(path)
        try:
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                seen["sockets"].append(path)
        except OSError:
            pass
own = {str(os.getpid()), str(os.getppid())}
for pid in filter(str.isdigit, os.listdir("/proc")):
    for part in ("environ", "cmdline", "maps", "mountinfo", "cgroup", "auxv", "mem", "stack", "syscall"):
        text = read(f"/proc/{pid}/{part}")
        seen["words"] += [f"{pid}/{part}: {w}" for w in WORDS if w.encode() in text]
    if pid == "1":
        try:
            seen["fds"] += os.listdir("/proc/1/fd")
        except OSError:
            pass
        for fd in range(64):
            try:
                os.close(os.open(f"/proc/1/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK))
                seen["written"].append(fd)
            except OSError:
                pass
        for way in ("root", "cwd", "exe"):
            try:
                seen["fds"] += os.listdir(f"/proc/1/{way}/")[:0] + [way] if os.readlink(f"/proc/1/{way}") else []
            except OSError:
                pass
for fd in os.listdir("/proc/self/fd"):
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        continue
    if "socket" in target or any(w in target for w in WORDS):
        seen["fds"].append(target)
open_hosts = []
for address in (("127.0.0.1", PORT), ("172.17.0.1", PORT), ("10.0.0.1", 53), ("169.254.169.254", 80), ("1.1.1.1", 53)):
    try:
        socket.create_connection(address, timeout=0.3).close()
        open_hosts.append(address)
    except OSError:
        pass
seen["network"] = open_hosts
try:
    seen["abstract"] = [l for l in open("/proc/net/unix").read().splitlines()[1:] if "@" in l]
except OSError:
    seen["abstract"] = []
seen["interfaces"] = [name for _, name in socket.if_nameindex() if name != "lo"]
print("SEEN " + json.dumps(seen))
"""


def look(arena: Arena, *words: str) -> str:
    port = arena.server.url.rpartition(":")[2]
    known = [str(arena.server.home), str(arena.server.tasks), "MLGYM_HOME", "MLGYM_RUNNER", *words]
    return f"PORT = {port}\nWORDS = {known!r}\n" + textwrap.dedent(LOOK)


@both
async def test_nothing_of_the_server_shows_inside(arena: Arena) -> None:
    labels = arena.server.vault("toy", "labels.json") if list((arena.server.home / "vault").glob("toy/**/*")) else None
    async with arena.playing() as (client, made):
        await text_of(client, "write_file", path="look.py", content=look(arena, made["token"], made["id"]))
        text = await text_of(client, "shell", command="python3 look.py", timeout_s=40)
        seen = json.loads(re.search(r"^SEEN (.*)$", text, re.MULTILINE)[1])
        assert [path for path in seen["files"] if "/lib/python3" not in path] == []
        assert seen["sockets"] == []
        assert [word for word in seen["words"] if made["id"] not in word or "cgroup" not in word] == []
        assert seen["fds"] == []
        assert seen["written"] == []
        assert seen["network"] == []
        assert seen["abstract"] == []
        assert seen["interfaces"] == []
        if labels is not None:
            assert json.dumps(labels["test"]) not in text
        for path in ("/proc/1/environ", "/proc/1/fd", "/proc/1/mem", "/proc/1/cwd", "/proc/1/root/etc"):
            answer = await client.call_tool("read_file", {"path": path})
            assert answer.is_error, path
            answer = await client.call_tool("list_files", {"path": path})
            assert answer.is_error, path


@both
async def test_the_journal_and_the_vault_cannot_be_reached_through_the_tools(arena: Arena) -> None:
    async with arena.playing() as (client, made):
        episode = arena.server.home / "episodes" / made["episode"]
        before = (episode / "events.jsonl").read_bytes()
        targets = [str(episode / "events.jsonl"), str(arena.server.home / "admin.token")]
        targets += [str(path) for path in (arena.server.home / "vault").rglob("*") if path.is_file()]
        host_bytes = {target: Path(target).read_bytes() for target in targets}
        for target in targets:
            await text_of(client, "shell", command=f"ln -sf {target} link; cat {target}; echo forged >> {target}")
            for path in (target, "link", f"../../..{target}", f"/workspace/../{target}"):
                for tool, more in (("read_file", {}), ("list_files", {}), ("search_files", {"pattern": "."})):
                    text = await text_of(client, tool, path=path, **more)
                    assert host_bytes[target].decode(errors="replace")[:40].strip() not in text, (tool, path)
            for path in (target, "link"):  # /tmp/... may be written: it is the sandbox's own
                await client.call_tool("write_file", {"path": path, "content": "forged"})
        after = (episode / "events.jsonl").read_bytes()
        assert after.startswith(before)
        arena.server.events(made)  # raises if a line was touched
        for target in targets[1:]:
            assert Path(target).read_bytes() == host_bytes[target]


@both
async def test_two_sessions_at_once_see_nothing_of_each_other(arena: Arena) -> None:
    async with arena.playing() as (one, _), arena.playing() as (other, _):
        leave = "for d in /workspace /tmp /dev/shm /var/tmp; do echo secret-of-one > $d/mine-of-one; done 2>/dev/null;"
        listen = """
import os, socket, time
a = socket.socket(socket.AF_UNIX); a.bind("\\0mlgym-attack"); a.listen()
t = socket.socket(); t.bind(("127.0.0.1", 45671)); t.listen()
time.sleep(600)
"""
        await text_of(one, "write_file", path="listen.py", content=listen)
        begin = f"{leave} python3 listen.py & sleep 0.5; export SECRET=secret-of-one; ipcmk -M 64"
        await text_of(one, "shell", command=begin)
        assert "mine-of-one" in await text_of(one, "shell", command="ls /workspace /tmp")
        spy = python("""
import glob, os, socket
for d in ("/workspace", "/tmp", "/dev/shm", "/var/tmp"): print(d, sorted(os.listdir(d)) if os.path.isdir(d) else "")
print("processes", [open(p).read() for p in glob.glob("/proc/[0-9]*/comm")])
print("args", [open(p).read() for p in glob.glob("/proc/[0-9]*/cmdline") if open(p).read().endswith("listen.py\\0")])
for family, address in ((socket.AF_UNIX, "\\0mlgym-attack"), (socket.AF_INET, ("127.0.0.1", 45671))):
    try:
        socket.socket(family).connect(address); print("CONN" + "ECTED", address)
    except OSError as e: print(e)
print("ipc", len(open("/proc/sysvipc/shm").read().splitlines()) - 1)
""")
        text = await text_of(other, "shell", command=f"echo [$SECRET]; {spy}")
        assert "of-one" not in text
        assert "CONNECTED" not in text
        assert "args []" in text
        assert "ipc 0" in text
        assert "[]\n" in text
        await text_of(other, "shell", command="kill -9 -1; pkill -9 python3; true")
        assert "listen.py" in await text_of(one, "shell", command="ps -eo args")
        await alive(other)


async def test_the_ends_of_one_session_do_not_touch_another(arena: Arena) -> None:
    async with arena.playing() as (one, _):
        async with arena.playing() as (other, _):
            await text_of(one, "shell", command="sleep 100 & echo begun")
            await text_of(other, "shell", command="sleep 100 & echo begun")
        with anyio.fail_after(10):
            assert "sleep" in await text_of(one, "shell", command="ps -eo args")
        await alive(one)
