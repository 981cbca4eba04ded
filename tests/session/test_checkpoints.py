"""Snapshots on disk and across servers: each is there whole or not at all, and no restore is silently half done."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.session.checkpoint_store import Checkpoint, NoSuchSnapshotError, Store, StoreError
from mlgym_mcp.session.checkpoints import moved_shell
from mlgym_mcp.session.errors import InfrastructureError
from mlgym_mcp.session.forking import parent_of
from mlgym_mcp.session.journal import read_journal
from mlgym_mcp.session.registry import SessionRegistry
from mlgym_mcp.session.session import Session
from mlgym_sandbox import Sandbox, workspaces
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.trees import Entry, Plan, Survey, Tree
from tests.serving.conftest import backend, light, own_home

__all__ = ["backend", "light", "own_home"]  # fixtures

FACTS = Checkpoint("s1", 1.0, None, 0, 1, 1, 1, 1, 0, 0, {}, 0)


def file_of(data: bytes, **changes: Any) -> Entry:
    known = {"mode": 0o644, "mtime": 1, "size": len(data), "stored": len(data)}
    return Entry("file", **{**known, "digest": hashlib.sha256(data).hexdigest(), **changes})


def keep(store: Store, number: int, files: dict[str, bytes], base: int | None = None) -> Tree:
    """Keep a snapshot of some files, as a difference to an earlier one."""
    before = {} if base is None else store.tree(f"s{base}")[0]
    pack = store.begin()
    for data in files.values():
        if data:
            pack.write(data)
        pack.finish()
    tree = {path: file_of(data) for path, data in files.items()}
    facts = replace(FACTS, id=f"s{number}", base=None if base is None else f"s{base}", new_bytes=pack.size)
    store.keep(facts, before, tree, dict.fromkeys(tree, f"1.{number}"), pack)
    return tree


def contents(store: Store, number: int) -> dict[str, bytes]:
    tree, _ = store.tree(f"s{number}")
    return {path: b"".join(store.read(entry.digest)) if entry.stored else b"" for path, entry in tree.items()}


def reopened(folder: Path) -> Store:
    store = Store(folder)
    store.open()
    return store


def test_each_content_is_stored_once_and_each_snapshot_is_read_back_by_a_later_server(tmp_path: Path) -> None:
    store = Store(tmp_path)
    files = {"a": b"one" * 100, "b": b"two" * 100, "same": b"one" * 100, "empty": b"", "na\udcffme": b"raw"}
    keep(store, 1, files)
    keep(store, 2, {**files, "a": b"three"}, base=1)
    keep(store, 3, {"b": files["b"]}, base=2)
    keep(store, 4, files, base=1)
    for found in (store, reopened(tmp_path)):
        assert contents(found, 1) == contents(found, 4) == files
        assert contents(found, 2) == {**files, "a": b"three"}
        assert contents(found, 3) == {"b": files["b"]}
        assert found.stored_bytes == 603 + 5
        assert list(found.checkpoints) == ["s1", "s2", "s3", "s4"]
    assert sum(path.stat().st_size for path in (tmp_path / "checkpoints").glob("*.pack")) == 608
    with pytest.raises(NoSuchSnapshotError, match=r"no snapshot 's9'; the newest are: s1, s2, s3, s4"):
        store.get("s9")


def test_a_long_chain_of_differences_is_cut_short(tmp_path: Path) -> None:
    store = Store(tmp_path)
    files: dict[str, bytes] = {}
    for number in range(1, 70):
        files[f"f{number}"] = str(number).encode()
        keep(store, number, files, base=number - 1 if number > 1 else None)
    found = reopened(tmp_path)
    assert contents(found, 69) == files
    assert max(each.depth for each in found.checkpoints.values()) < 32


def test_a_damaged_snapshot_is_named_and_never_laid_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    keep(store, 1, {"a": b"x" * 1000})
    (pack,) = (tmp_path / "checkpoints").glob("*.pack")
    data = pack.read_bytes()
    for broken in (data[:-1], b"y" + data[1:], b""):
        pack.write_bytes(broken)
        with pytest.raises(StoreError, match="damaged"):
            contents(store, 1)
    manifest = tmp_path / "checkpoints" / "s1.json"
    text = manifest.read_bytes()
    for broken in (text[:-5], text.replace(b'"a"', b'"b"'), b"", b"\n\n", b"{}\n{}\n"):
        manifest.write_bytes(broken)
        with pytest.raises(StoreError, match="snapshot s1 is damaged"):
            reopened(tmp_path)


def test_a_fork_stands_alone_and_shares_its_contents_on_disk(tmp_path: Path) -> None:
    store = Store(tmp_path / "parent")
    (tmp_path / "parent").mkdir()
    (tmp_path / "child").mkdir()
    keep(store, 1, {"a": b"one", "gone": b"later"})
    keep(store, 2, {"a": b"one", "b": b"two"}, base=1)
    store.give("s2", tmp_path / "child")
    child = reopened(tmp_path / "child")
    assert child.is_fork
    assert child.checkpoints["s0"].origin == ("parent", "s2")
    assert all(path.stat().st_nlink == 2 for path in child.folder.glob("*.pack"))
    for path in store.folder.iterdir():
        path.unlink()
    tree, states = child.tree("s0")
    assert {path: b"".join(child.read(entry.digest)) for path, entry in tree.items()} == {"a": b"one", "b": b"two"}
    assert states == {}


WRITER = """
import sys
from pathlib import Path
from tests.session.test_checkpoints import Store, keep
store, files = Store(Path(sys.argv[1])), {}
for number in range(1, 900):
    files[f"f{number}"] = bytes([number % 256]) * 5000
    keep(store, number, files, base=number - 1 if number > 1 else None)
    print(number, flush=True)
"""


@pytest.mark.parametrize("after", [1, 3, 8])
def test_a_server_killed_over_a_snapshot_leaves_it_whole_or_not_at_all(tmp_path: Path, after: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as said:
        while int(said.readline()) < after:
            pass
        process.send_signal(signal.SIGKILL)
        told = [int(line) for line in said]
    process.wait(10)
    store = Store(tmp_path)
    store.tidy()
    store.open()
    known = len(store.checkpoints)
    assert known >= max([after, *told])
    for number in range(1, known + 1):
        assert contents(store, number) == {f"f{n}": bytes([n % 256]) * 5000 for n in range(1, number + 1)}
    assert not list(store.folder.glob("*.part"))
    keep(store, known + 1, {"new": b"after"}, base=known)
    assert contents(reopened(tmp_path), known + 1) == {"new": b"after"}


def test_a_plan_removes_whole_trees_and_touches_only_what_differs() -> None:
    folder, link, data = Entry("dir", 0o755, 1), Entry("link", 0, 1, "x"), file_of(b"1")
    now = {"same": data, "d": folder, "d/old": data, "d/e": folder, "d/e/f": data, "k": folder, "k/x": data, "l": link}
    wanted = {"same": data, "d": folder, "k": data, "l": folder, "l/in": link}
    plan = Plan(now, ["d/pipe"], wanted)
    assert plan.removed == ["d/e", "d/old", "d/pipe", "k", "l"]
    assert plan.written == ["d", "k", "l", "l/in"]
    assert Plan(wanted, [], wanted).written == []


@pytest.mark.parametrize(
    "said",
    [
        b'["d","../up",1,1]\n',
        b'["d","/etc",1,1]\n',
        b'["d","a//b",1,1]\n',
        b'["d","",1,1]\n',
        b'["f","a",1,1,"",5,[[0,9]],5]\n',
        b'["f","a",1,1,"",5,null,-5]\n',
        b'["z","a"]\n',
        b"[]\n",
        b"nonsense\n",
        b"x" * 400_000,
    ],
)
def test_what_makes_no_sense_in_a_survey_is_refused(said: bytes) -> None:
    with pytest.raises(SandboxError, match=r"what makes no sense|without end"):
        Survey().feed(said)


def test_a_survey_is_read_alike_however_it_is_cut() -> None:
    class Kept:
        def __init__(self) -> None:
            self.now, self.all = b"", []

        def write(self, data: bytes) -> None:
            self.now += data

        def finish(self) -> str:
            self.all.append(self.now)
            self.now = b""
            return str(len(self.all))

    told = b'["d","a",493,1]\n["f","a/b",420,2,"1.2",3,null,3]\nx\ny["f","e",420,2,"1.9",0,null,0]\n["-","old"]\n'
    whole: Survey | None = None
    for step in (1, 2, 7, 1000):
        kept = Kept()
        survey = Survey(kept)
        for at in range(0, len(told), step):
            survey.feed(told[at : at + step])
        survey.end({"files": 3, "bytes": 3, "fresh_from": 9})
        assert kept.all == [b"x\ny", b""]
        assert survey.states == {"a/b": "1.2"}  # a time of change that may be repeated tells nothing
        assert survey.over({"old": Entry("dir"), "k": Entry("dir")}).keys() == {"a", "a/b", "e", "k"}
        assert whole is None or whole.changed == survey.changed
        whole = survey


def test_a_moved_shell_keeps_what_is_its_own(tmp_path: Path) -> None:
    state = b'declare -x MLGYM_SEED="1"\ndeclare -x MOOD="good"\ncd -- /\n:\n'
    moved = moved_shell(state)
    assert moved.endswith(b"\n:\n")
    script = moved.decode() + 'echo "$MLGYM_SEED $MOOD $PWD ${CUDA_VISIBLE_DEVICES-unset}"; set | grep -c __own_'
    done = subprocess.run(["bash", "-c", script], env={"MLGYM_SEED": "2"}, capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == "2 good / unset"
    assert moved_shell(b"exit 1") == b""


# ------------------------------------------------------------------ from server to server


@asynccontextmanager
async def server(backend: str) -> AsyncIterator[SessionRegistry]:
    registry = SessionRegistry(Catalog.default(), sandbox=backend, unsafe=True, wait_s=20)
    async with registry.run(address="here", on_stop="detach"):
        yield registry
        if registry.on_stop == "end":
            await registry.end_all("the test is over")


@pytest.fixture
def restoring(monkeypatch: pytest.MonkeyPatch) -> anyio.Event:
    """A sandbox whose first rebuilding never ends; the event says that it has begun."""
    begun = anyio.Event()
    rebuild = workspaces.rebuild

    async def hung(sandbox: Sandbox, steps: Iterator[bytes], **options: Any) -> dict[str, str]:
        if begun.is_set():
            return await rebuild(sandbox, steps, **options)
        await sandbox.run("rm -f start.py", wait_s=10)
        begun.set()
        await anyio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(workspaces, "rebuild", hung)
    return begun


def types(session: Session) -> list[str]:
    return [event.type for event in read_journal(session.episode.folder)]


@pytest.mark.anyio
@pytest.mark.usefixtures("own_home")
async def test_a_restore_over_which_a_server_dies_is_done_by_the_next_one(backend: str, restoring: anyio.Event) -> None:
    async with server(backend) as registry:
        session = await registry.create("toy")
        sandbox = await session.sandbox()
        await sandbox.write_file("work", b"first")
        taken = await session.checkpoints.take()
        await sandbox.write_file("work", b"second")
        await sandbox.write_file("more", b"more")

        async def restore() -> None:
            with pytest.raises(Exception, match="restarted"):
                await session.checkpoints.restore(taken.id)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(restore)
            with anyio.fail_after(20):
                await restoring.wait()
            await session.detach()
        assert types(session)[-2:] == ["restoring", "detached"]
    async with server(backend) as registry:
        (again,) = registry.sessions()
        sandbox = await again.sandbox()
        assert (await sandbox.read_file("work")).data == b"first"
        listing = await sandbox.list_files("/workspace" if backend != "process" else ".")
        assert [Path(entry.path).name for entry in listing.entries] == ["start.py", "work"]
        (event,) = [event for event in read_journal(again.episode.folder) if event.type == "restored"]
        assert event["again"] is True
        assert [each.id for each in await again.checkpoints.all()] == ["s1"]
        unchanged = await again.checkpoints.take()
        assert (unchanged.id, unchanged.new_files, unchanged.new_bytes) == ("s2", 0, 0)
        registry.on_stop = "end"


@pytest.mark.anyio
@pytest.mark.usefixtures("own_home")
async def test_a_restore_that_breaks_off_says_so_and_can_be_done_again(backend: str) -> None:
    async with server(backend) as registry:
        session = await registry.create("toy")
        sandbox = await session.sandbox()
        await sandbox.write_file("work", b"first" * 1000)
        taken = await session.checkpoints.take()
        await sandbox.write_file("work", b"second")
        (pack,) = (session.episode.folder / "checkpoints").glob("*.pack")
        whole = pack.read_bytes()
        pack.write_bytes(bytes(len(whole)))
        with pytest.raises(InfrastructureError, match=r"half of both.*damaged.*Restore again"):
            await session.checkpoints.restore(taken.id)
        assert types(session)[-2:] == ["restoring", "restore_failed"]
        assert session.over is None
        pack.write_bytes(whole)
        await session.checkpoints.restore(taken.id)
        assert (await sandbox.read_file("work")).data == b"first" * 1000
        registry.on_stop = "end"


@pytest.mark.anyio
@pytest.mark.usefixtures("own_home")
async def test_a_fork_whose_server_dies_before_it_is_ready_begins_with_its_snapshot(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server(backend) as registry:
        session = await registry.create("toy")
        await (await session.sandbox()).write_file("work", b"of the parent")
        taken = await session.checkpoints.take()
        with monkeypatch.context() as patched:
            hung = anyio.Event()

            async def never(*_: Any, **__: Any) -> None:
                hung.set()
                await anyio.sleep_forever()

            patched.setattr(workspaces, "rebuild", never)
            child = await registry.create("toy", **parent_of(session, taken.id).options())
            with anyio.fail_after(30):
                await hung.wait()
            await child.detach()
    async with server(backend) as registry:
        again = registry.get(child.id)
        assert again is not None
        assert again.parent == (session.episode.id, taken.id)
        assert (await (await again.sandbox()).read_file("work")).data == b"of the parent"
        registry.on_stop = "end"
