"""Snapshots, restores and forks over the control API: what a tree search over attempts needs."""

from __future__ import annotations

import errno
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx
import pytest

from mlgym_mcp.serving.host import Host
from mlgym_mcp.session import checkpoint_pack, checkpoints
from mlgym_mcp.session.calls import CallSpec
from mlgym_mcp.session.journal import read_journal
from mlgym_mcp.session.session import Session
from mlgym_mcp.session.solutions import scored
from mlgym_sandbox import Sandbox, workspaces
from tests.serving.conftest import episode_folder, running_host
from tests.serving.control_client import admin_of, until_ready
from tests.toy import CSV

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]

LOOK = r"find . -mindepth 1 -printf '%P %y %m %T@ %s %l\n' | sort; find . -type f -readable -exec sha256sum {} + | sort"


async def begin(host: Host, http: httpx.AsyncClient, **body: object) -> tuple[Session, Sandbox, str]:
    """A session that is ready, its sandbox, and its address."""
    view = (await http.post("/api/sessions", json={"task": "toy", **body})).json()
    assert (await until_ready(http, view["id"]))["state"] == "ready"
    session = host.registry.get(view["id"])
    assert session is not None
    return session, await session.sandbox(), f"/api/sessions/{session.id}"


async def sh(sandbox: Sandbox, command: str, *, keep: bool = False) -> str:
    status, output = await sandbox.run(command, wait_s=30, keep_state=keep)
    assert status.exit_code == 0, output.data.decode(errors="replace")
    return output.data.decode(errors="replace")


async def post(http: httpx.AsyncClient, url: str, status: int = 201, **body: object) -> dict[str, Any]:
    answer = await http.post(url, json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def events(session: Session, *kinds: str) -> list[dict[str, Any]]:
    return [dict(event.fields) for event in read_journal(episode_folder(session)) if event.type in kinds]


async def test_a_restored_workspace_is_what_it_was_to_the_last_link_mode_and_time(backend: str) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        _, sandbox, url = await begin(host, http)
        await sh(
            sandbox,
            r"""mkdir -p a/b/c venv/bin locked; echo one > a/b/c/one; echo two > a/two
            ln -s /usr/bin/python3 venv/bin/python; ln -s nowhere dangling
            printf raw > "$(printf 'na\377me')"; truncate -s 8M sparse; printf end >> sparse
            ln a/two a/same; : > empty; echo secret > locked/in; chmod 750 a/b; chmod 400 a/b/c/one; chmod 555 locked
            mkdir entered; echo x > entered/f; chmod 500 entered
            touch -d 2001-02-03T04:05:06.789 a/two a/b""",
        )
        before = await sh(sandbox, LOOK)
        taken = await post(http, f"{url}/snapshots")
        assert taken["left_out"] == {}
        assert taken["bytes"] > 8 << 20
        assert taken["new_bytes"] < 1000  # of a hole nothing is kept, and of equal contents one
        await sh(
            sandbox,
            r"""chmod 700 locked a/b; rm -rf a/b/c locked; echo new > a/b/c; echo other > a/two; mkdir -p more/and/more
            echo x > more/and/x; chmod 0 more/and; rm venv/bin/python dangling; mkdir dangling; ln -sfn /tmp venv/link
            rm "$(printf 'na\377me')"; truncate -s 10 sparse; echo y >> empty; mkfifo pipe; chmod 777 start.py""",
        )
        job = await sandbox.start("sleep 1000")
        done = await post(http, f"{url}/restore", 200, snapshot=taken["id"])
        assert done["removed"] >= 3
        assert await sh(sandbox, LOOK) == before
        assert (await sandbox.wait(job.id, 5)).state != "running"
        again = await post(http, f"{url}/restore", 200, snapshot=taken["id"])
        assert (again["written"], again["removed"]) == (0, 0)
        assert await sh(sandbox, LOOK) == before


async def test_what_has_not_changed_is_neither_sent_nor_stored_again(backend: str) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        session, sandbox, url = await begin(host, http)
        await sh(sandbox, "for i in $(seq 200); do head -c 20000 /dev/urandom > f$i; done; cp f1 copy")
        first = await post(http, f"{url}/snapshots")
        assert first["new_bytes"] == pytest.approx(200 * 20_000, abs=1000)
        await sh(sandbox, "echo changed >> f7; rm f8; mv f9 g9; touch f10; printf 'same size, other' > s")
        second = await post(http, f"{url}/snapshots")
        assert (second["new_files"], second["files"]) == (4, first["files"])  # f7, g9, f10, s: a move is no new content
        assert second["new_bytes"] == 20_000 + len("changed\n") + len("same size, other")
        await sh(sandbox, "m=$(stat -c %y s); printf 'same size, edit' > s; printf '!' >> s; touch -d \"$m\" s")
        third = await post(http, f"{url}/snapshots")
        assert (third["new_files"], third["new_bytes"]) == (1, 16)  # times that are set back hide nothing
        nothing = await post(http, f"{url}/snapshots")
        assert (nothing["new_files"], nothing["new_bytes"]) == (0, 0)
        listed = (await http.get(f"{url}/snapshots")).json()["snapshots"]
        assert listed == [first, second, third, nothing]
        for taken, text in ((first, ""), (third, "same size, edit!"), (second, "same size, other")):
            await post(http, f"{url}/restore", 200, snapshot=taken["id"])
            assert await sh(sandbox, "cat s 2>/dev/null || true") == text
        after = await post(http, f"{url}/snapshots")
        assert (after["new_files"], after["new_bytes"]) == (0, 0)  # a restored workspace is known
        assert [event["snapshot"] for event in events(session, "restored")] == ["s1", "s3", "s2"]


async def test_a_fork_has_the_work_the_notes_and_the_shell_and_its_own_seed_and_budget(backend: str) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        parent, sandbox, url = await begin(
            host, http, seed=4, budget={"calls": 30, "validations": 2, "wall_s": 300}, metadata={"who": "me"}
        )
        await sh(sandbox, "mkdir sub; echo kept > sub/work; cd sub; export MOOD=good", keep=True)
        await sandbox.write_file("submission.csv", CSV.encode())
        await scored(parent, "validate")
        parent.notes.write("before", ())
        parent.meter.calls = 10
        taken = await post(http, f"{url}/snapshots")
        assert (taken["notes"], taken["calls"]) == (1, parent.calls.made)
        parent.notes.write("after", ())
        await sh(sandbox, "echo spoilt > /workspace/sub/work" if backend != "process" else "echo spoilt > sub/work")
        view = await post(http, f"{url}/fork", snapshot=taken["id"], seed=9)
        assert view["token"]
        assert (view["task"], view["seed"], view["metadata"]) == ("toy", 9, {"who": "me"})
        assert (await until_ready(http, view["id"]))["state"] == "ready"
        child = host.registry.get(view["id"])
        assert child is not None
        budget = child.config.budget
        assert (budget.calls, budget.validations) == (20, 1)
        assert budget.wall_s is not None
        assert 0 < budget.wall_s < 300
        other = await child.sandbox()
        assert await sh(other, "cat sub/work; echo $MLGYM_SEED") == "kept\n9\n"
        if backend != "process":
            assert await sh(other, "echo ${PWD##*/} $MOOD $MLGYM_SEED", keep=True) == "sub good 9\n"
        assert [note.text for note in child.notes.search("", 5)] == ["before"]
        assert child.scoring.scores == []
        await sh(other, "rm -r sub")
        assert await sh(sandbox, "cat sub/work || cat work", keep=False) == "spoilt\n"
        assert events(child, "session")[0]["parent"] == {"episode": parent.episode.id, "snapshot": taken["id"]}
        assert events(parent, "forked") == [{"snapshot": taken["id"], "episode": child.episode.id}]
        fresh = await post(http, f"{url}/fork", budget="fresh")
        own = await post(http, f"{url}/fork", budget={"calls": 3}, metadata={})
        for view, calls in ((fresh, 30), (own, 3)):
            grown = host.registry.get(view["id"])
            assert grown is not None
            assert grown.config.budget.calls == calls
        parent.meter.calls = 30
        refused = await post(http, f"{url}/fork", 409, snapshot=taken["id"])
        assert "no tool calls left" in refused["error"]
        bad = await post(http, f"{url}/fork", 400, snapshot=taken["id"], budget={"calls": 0})
        assert "calls must be" in bad["error"]


async def test_forks_with_one_key_are_one_session_and_the_key_is_no_other_requests(backend: str) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        _, _, url = await begin(host, http)
        await post(http, f"{url}/snapshots")
        body = {"snapshot": "s1", "idempotency_key": "k"}
        answers: list[httpx.Response] = []

        async def fork() -> None:
            answers.append(await http.post(f"{url}/fork", json=body))

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(fork)
        assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
        assert len({answer.json()["id"] for answer in answers}) == 1
        await post(http, f"{url}/snapshots")
        await post(http, f"{url}/fork", 409, snapshot="s2", idempotency_key="k")
        assert len(host.registry.sessions()) == 2
        await post(http, f"/api/sessions/{answers[0].json()['id']}/fork", 409, idempotency_key="k")
        await post(http, f"{url}/fork", 404, snapshot="s9")
        folders = list(host.registry.root.iterdir())
        assert len(folders) == 2, "a fork that failed has left something"


async def test_a_session_that_ended_is_forked_also_by_the_next_server(backend: str) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        parent, sandbox, url = await begin(host, http, budget={"calls": 7})
        await sh(sandbox, "echo 1 > one")
        await post(http, f"{url}/snapshots")
        child = await post(http, f"{url}/fork")
        await until_ready(http, child["id"])
        parent.calls.made = parent.meter.calls = 3
        await http.delete(url)
        await post(http, f"{url}/snapshots", 409)
        await post(http, f"{url}/restore", 409, snapshot="s1")
        assert "is over" in (await post(http, f"{url}/fork", 409))["error"]
        assert len((await http.get(f"{url}/snapshots")).json()["snapshots"]) == 2
        view = await post(http, f"{url}/fork", snapshot="s1")
        assert (await until_ready(http, view["id"]))["state"] == "ready"
        for path in (parent.episode.folder / "checkpoints").iterdir():
            path.unlink()  # each episode stands alone
        await http.delete(f"/api/sessions/{view['id']}")
    async with running_host(backend) as host, admin_of(host) as http:
        url = f"/api/sessions/{view['id']}"
        assert host.registry.get(view["id"]) is None
        assert [taken["id"] for taken in (await http.get(f"{url}/snapshots")).json()["snapshots"]] == ["s0"]
        await post(http, f"{url}/snapshots", 409)
        again = await post(http, f"{url}/fork", snapshot="s0")
        assert (await until_ready(http, again["id"]))["state"] == "ready"
        grandchild = host.registry.get(again["id"])
        assert grandchild is not None
        assert grandchild.config.budget.calls == 4
        assert await sh(await grandchild.sandbox(), "cat one") == "1\n"
        await post(http, f"{url}/fork", 404, snapshot="s1")
        await post(http, f"{url}/fork", 409)


async def test_while_the_work_is_graded_there_is_no_snapshot_and_no_restore(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        session, _, url = await begin(host, http)
        await post(http, f"{url}/snapshots")
        with monkeypatch.context() as patched:
            patched.setattr(type(session.scoring), "grading", True)
            for path, body in (("snapshots", {}), ("restore", {"snapshot": "s1"}), ("fork", {})):
                assert "graded" in (await post(http, f"{url}/{path}", 409, **body))["error"]
        await post(http, f"{url}/restore", 200, snapshot="s1")
        await post(http, f"{url}/restore", 404, snapshot="../s1")
        await post(http, f"{url}/restore", 422, snapshot="")
        await post(http, "/api/sessions/nobody/snapshots", 404)


async def test_a_full_disk_a_full_store_or_too_many_snapshots_leave_the_session_as_it_was(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        session, sandbox, url = await begin(host, http)
        await sh(sandbox, "head -c 300000 /dev/urandom > big")
        await post(http, f"{url}/snapshots")
        await sh(sandbox, "head -c 300000 /dev/urandom > other")
        folder = session.episode.folder / "checkpoints"
        before = sorted(folder.iterdir())

        def full(self: object, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        for target, name, value, status, words in (
            (checkpoint_pack.Pack, "write", full, 507, "No space left"),
            (checkpoint_pack, "_SPARE_BYTES", 1 << 60, 507, "disk is full"),
            (checkpoints, "MOST", 1, 409, "the limit"),
            (checkpoints, "MOST_FILES", 2, 409, "more than 2 files"),
        ):
            with monkeypatch.context() as patched:
                patched.setattr(target, name, value)
                assert words in (await post(http, f"{url}/snapshots", status))["error"]
            assert sorted(folder.iterdir()) == before
        with monkeypatch.context() as patched:
            patched.setattr(checkpoints, "_ROOM_MB", 0)
            patched.setattr(type(session.checkpoints._store), "stored_bytes", (4 * 64 << 20) - 1000)
            assert "the 1000 bytes that are left" in (await post(http, f"{url}/snapshots", 409))["error"]
        taken = await post(http, f"{url}/snapshots")
        assert taken["id"] == "s2"
        assert await sh(sandbox, "ls big other") == "big\nother\n"


async def test_a_snapshot_waits_for_calls_in_flight_and_calls_for_the_restore(backend: str) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        session, sandbox, url = await begin(host, http)
        order: list[str] = []

        def call(name: str, work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
            async def run() -> None:
                await session.calls.perform(name, {}, CallSpec("ordered"), work, lambda _: {})
                order.append(name)

            return run

        inside, go = anyio.Event(), anyio.Event()

        async def slow() -> None:
            inside.set()
            await go.wait()
            await sh(sandbox, "echo whole > made")

        async def snapshot() -> None:
            taken = await post(http, f"{url}/snapshots")
            order.append("snapshot")
            assert taken["files"] == 2

        async def look() -> None:
            assert await sh(sandbox, "cat made") == "whole\n"

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call("slow", slow))
            await inside.wait()
            tasks.start_soon(snapshot)
            with anyio.fail_after(10):
                while session.calls.in_flight < 2:
                    await anyio.sleep(0.005)
            tasks.start_soon(call("look", look))
            go.set()
        assert order == ["slow", "snapshot", "look"]


async def test_the_agent_is_not_told_more_and_followers_see_what_happened(backend: str) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        session, sandbox, url = await begin(host, http)
        calls = session.meter.spent.calls
        await sh(sandbox, "mkfifo pipe; mkdir shut; chmod 0 shut")
        taken = await post(http, f"{url}/snapshots")
        assert "pipe" in taken["left_out"]
        assert taken["left_out_files"] == len(taken["left_out"]) >= 1
        await post(http, f"{url}/restore", 200, snapshot=taken["id"])
        assert "pipe" not in await sh(sandbox, "ls")
        assert session.meter.spent.calls == calls
        await http.delete(url)
        text = (await http.get(f"{url}/events")).text
        shown = {
            line["type"]: line
            for line in (json.loads(row[6:]) for row in text.splitlines() if row.startswith("data: "))
        }
        assert shown["snapshot"]["left_out"] == taken["left_out_files"]
        assert shown["restored"]["snapshot"] == "s1"
        assert "shell" not in json.dumps(shown)


async def test_a_restore_under_way_is_finished_before_an_end_is_graded(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_host(backend) as host, admin_of(host) as http:
        session, sandbox, url = await begin(host, http)
        await sandbox.write_file("submission.csv", CSV.encode())
        await post(http, f"{url}/snapshots")
        await sandbox.write_file("submission.csv", b"id,label\n")
        session.calls.made = 1
        begun, go = anyio.Event(), anyio.Event()
        rebuild = workspaces.rebuild

        async def held(*arguments: Any, **options: Any) -> Any:
            begun.set()
            await go.wait()
            return await rebuild(*arguments, **options)

        monkeypatch.setattr(workspaces, "rebuild", held)
        async with anyio.create_task_group() as tasks:

            async def restore() -> None:
                await post(http, f"{url}/restore", 200, snapshot="s1")

            tasks.start_soon(restore)
            await begun.wait()
            await session.end("abandoned", "the session was deleted")
            go.set()
            await session.wait_ended()
        assert session.over is not None
        assert session.over.outcome == "scored"
