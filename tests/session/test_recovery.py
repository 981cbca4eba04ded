"""A server killed with -9 in the middle of sessions, and the next one that goes on with them."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.records.episodes import summarize
from mlgym_mcp.session.episode import Episode
from mlgym_mcp.session.journal import Event, Journal, read_journal
from mlgym_mcp.session.leftovers import owner_labels, remove_orphans
from mlgym_mcp.session.markers import Marker, Markers
from mlgym_mcp.session.notes import Notes
from mlgym_mcp.session.recovery import end_dead, read_past
from mlgym_mcp.session.registry import SessionRegistry
from mlgym_mcp.session.session import Session
from mlgym_mcp.session.solutions import scored
from mlgym_sandbox import SandboxSpec, get_backend
from mlgym_sandbox.processes import process_started
from tests.serving.conftest import backend, light, own_home
from tests.session.doomed import command
from tests.toy import CSV

__all__ = ["backend", "light", "own_home"]  # fixtures
pytestmark = pytest.mark.anyio


class Doomed:
    """A server in another process, killed when it has told of its session."""

    def __init__(self, backend: str, stage: str) -> None:
        program = [sys.executable, "-m", "tests.session.doomed", backend, stage]
        self.process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "it failed before it could be killed"
        self.told: dict[str, Any] = json.loads(line)

    def kill(self) -> dict[str, Any]:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.told

    @property
    def events(self) -> list[Event]:
        return list(read_journal(Path(self.told["episode"])))


@pytest.fixture
def kill(own_home: Path, backend: str) -> Iterator[Any]:
    made: list[Doomed] = []

    def doomed(stage: str = "working") -> Doomed:
        made.append(Doomed(backend, stage))
        return made[-1]

    yield doomed
    for each in made:
        each.kill()


@asynccontextmanager
async def next_server(backend: str, *, address: str | None = "here", **options: Any) -> AsyncIterator[SessionRegistry]:
    registry = SessionRegistry(Catalog.default(), sandbox=backend, unsafe=True, wait_s=10)
    async with registry.run(address=address, **options):
        yield registry


async def ready(registry: SessionRegistry, session_id: str) -> Session:
    session = registry.get(session_id)
    assert session is not None
    with anyio.fail_after(20):
        await session.wait_ready()
    return session


async def left(backend: str) -> list[str]:
    return [found.name for found in await get_backend(backend, unsafe=True).find({"mlgym": "1"})]


async def test_a_session_goes_on_with_all_it_had(kill: Any, backend: str) -> None:
    doomed = kill("in_flight")
    told = doomed.kill()
    before = doomed.events
    async with next_server(backend) as registry:
        session = await ready(registry, told["id"])
        assert session.over is None, session.over_text()
        assert (session.token, session.config.seed, session.config.metadata) == (told["token"], 7, {"who": "test"})
        assert session.meter.budget.calls == 10
        assert (session.meter.calls, session.calls.made, session.meter.validations) == (4, 4, 1)
        assert [score.value for score in session.scoring.scores] == [told["shown"]]
        assert [note.text for note in session.notes.search("", 10)] == ["remember this"]
        assert await registry.create("toy", key="k") is session
        sandbox = await session.sandbox()
        assert sandbox.name == told["sandbox"]
        jobs = {job.id: job for job in await sandbox.jobs()}
        assert jobs[told["job"]].state == "running"
        assert [job.state for job in jobs.values() if job.command == "sleep 1000"] == ["running"]
        first = await sandbox.output(told["job"], 0, 1000)
        rest = await sandbox.output(told["job"], 500, 500)
        assert first.data.startswith(b"line 0\nline 1\n")
        assert first.data[500:] == rest.data
        assert await command(session, "cat submission.csv") == CSV
        assert session.meter.calls == 5
        assert (await scored(session, "submit")).valid
        with anyio.fail_after(20):
            await session.wait_ended()
    events = doomed.events
    assert events[: len(before)] == before
    (adopted,) = [event for event in events if event.type == "adopted"]
    (in_flight,) = adopted["unanswered"]
    assert events[in_flight].type == "call"
    assert in_flight not in [event["call"] for event in events if event.type == "result"]
    assert [event["outcome"] for event in events if event.type == "end"] == ["scored"]
    assert summarize(Path(told["episode"])).damage is None
    assert not await left(backend)
    assert not list(Markers().every())


async def test_the_time_in_which_no_server_was_there_is_not_the_agents_loss(kill: Any, backend: str) -> None:
    doomed = kill()
    await anyio.sleep(2.5)  # an agent that thinks: the wall clock runs though nothing is journalled
    told = doomed.kill()
    marker = Markers()._path(told["id"])
    ago = time.time() - 1000
    shift = marker.stat().st_mtime - ago
    _shift(Path(told["episode"]), shift)
    os.utime(marker, (ago, ago))
    async with next_server(backend) as registry:
        session = await ready(registry, told["id"])
        assert 1.4 < session.meter.wall_s < 60
        spent = session.meter.wall_s
        (adopted,) = [event for event in doomed.events if event.type == "adopted"]
        assert 1000 <= adopted["away_s"] < 1060
        past = read_past(doomed.events, session.spec)
        assert abs(past.wall_s - spent) < 1


def _shift(folder: Path, seconds: float) -> None:
    """Make a journal older."""
    events = list(read_journal(folder))
    (folder / "events.jsonl").unlink()
    journal = Journal(folder)
    real = time.time
    try:
        for event in events:
            time.time = lambda t=event.t: t - seconds  # type: ignore[assignment,misc]
            journal.append(event.type, **event.fields)
    finally:
        time.time = real
    journal.close()


async def test_a_session_whose_sandbox_is_gone_ends_as_an_infrastructure_error(kill: Any, backend: str) -> None:
    told = kill().kill()
    await get_backend(backend, unsafe=True).remove(told["sandbox"])
    async with next_server(backend) as registry:
        session = registry.get(told["id"])
        assert session is not None
        with anyio.fail_after(20):
            end = await session.wait_ended()
        assert end is not None
        assert end.outcome == "infrastructure_error"
        assert "the sandbox did not outlive the server" in session.over_text()
    summary = summarize(Path(told["episode"]))
    assert (summary.outcome, summary.score, summary.damage) == ("infrastructure_error", None, None)
    assert len(summary.validations) == 1


async def test_a_session_that_was_being_prepared_is_prepared_again(kill: Any, backend: str) -> None:
    told = kill("preparing").kill()
    async with next_server(backend) as registry:
        session = await ready(registry, told["id"])
        assert session.over is None, session.over_text()
        assert "starter" in await command(session, "cat start.py")
        assert len(await left(backend)) == 1
        assert session.meter.wall_s < 20
    assert not await left(backend)


async def test_a_final_score_that_was_journalled_ends_the_episode_though_its_end_was_not(
    kill: Any, backend: str
) -> None:
    doomed = kill("scored")
    told = doomed.kill()
    async with next_server(backend) as registry:
        session = registry.get(told["id"])
        assert session is not None
        with anyio.fail_after(20):
            end = await session.wait_ended()
        assert end is not None
        assert (end.outcome, end.reason) == ("scored", "the work was submitted")
        assert end.score is not None
    events = doomed.events
    assert [event.type for event in events].count("score") == 2
    (end_event,) = [event for event in events if event.type == "end"]
    assert end_event["score"]["metrics"] == next(e for e in events if e.get("kind") == "submit")["metrics"]
    assert end_event["spent"]["wall_s"] > 0, "what was spent is known, though nobody took the sandbox up"
    assert not await left(backend)


async def test_an_end_that_was_decided_is_carried_out_by_the_next_server(kill: Any, backend: str) -> None:
    doomed = kill("ending")
    told = doomed.kill()
    async with next_server(backend) as registry:
        session = registry.get(told["id"])
        assert session is not None
        with anyio.fail_after(20):
            end = await session.wait_ended()
        assert end is not None
        assert (end.outcome, end.reason) == (
            "scored",
            "somebody deleted it; the workspace was submitted as it stood",
        )
    assert [event.type for event in doomed.events].count("ending") == 1
    assert [event.type for event in doomed.events].count("end") == 1


async def test_sessions_of_a_living_server_are_left_alone(kill: Any, backend: str) -> None:
    doomed = kill()
    async with next_server(backend) as registry:
        assert registry.sessions() == []
    assert doomed.events[-1].type != "end"
    assert len(await left(backend)) == 1
    assert doomed.process.poll() is None


async def test_a_server_elsewhere_leaves_them_to_their_own_until_the_sandboxes_are_dead(
    kill: Any, backend: str
) -> None:
    doomed = kill()
    told = doomed.kill()
    for address in ("elsewhere", None):
        async with next_server(backend, address=address) as registry:
            assert registry.sessions() == []
            await registry.sweep([])
        assert len(await left(backend)) == 1
    marker = Markers()._path(told["id"])
    os.utime(marker, (0, 0))
    async with next_server(backend, address="elsewhere") as registry:
        assert registry.sessions() == []
    assert doomed.events[-1]["outcome"] == "infrastructure_error"
    assert not await left(backend)


async def test_of_two_new_servers_one_takes_a_session_over(kill: Any, backend: str) -> None:
    told = kill().kill()
    async with next_server(backend) as one, next_server(backend) as other:
        assert [len(one.sessions()), len(other.sessions())] == [1, 0]
        await ready(one, told["id"])


async def test_detached_sessions_go_on_in_the_next_server_and_calls_in_flight_are_told(
    own_home: Path, backend: str
) -> None:
    answers: list[str] = []
    async with next_server(backend, on_stop="detach") as registry:
        session = await registry.create("toy", budget={"calls": 5})
        await session.wait_ready()
        assert await command(session, "echo one") == "one\n"

        async def long() -> None:
            try:
                await command(session, "sleep 1000")
            except Exception as exc:
                answers.append(str(exc))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(long)
            with anyio.fail_after(10):
                while session.calls.in_flight == 0:
                    await anyio.sleep(0.01)
            await registry.stop()
        assert registry.live == 0
    assert "restarted" in answers[0]
    folder = session.episode.folder
    assert list(read_journal(folder))[-1].type == "detached"
    async with next_server(backend) as registry:
        again = await ready(registry, session.id)
        assert again.over is None, again.over_text()
        assert again.token == session.token
        assert again.meter.calls == 2
        assert await command(again, "echo two") == "two\n"
    assert [event.type for event in read_journal(folder)].count("end") == 1
    assert not await left(backend)


async def test_orphans_are_removed_and_nothing_else(own_home: Path, backend: str) -> None:
    used = get_backend(backend, unsafe=True)
    mine, dead = owner_labels(), {**owner_labels(), "mlgym.server": f"{os.getpid()}:1"}
    named = {
        "living": {**mine, "mlgym.session": "a"},
        "claimed": {**dead, "mlgym.session": "b"},
        "unknown": {**dead, "mlgym.session": "c"},
        "player": {**dead, "mlgym.session": "b", "mlgym.role": "player"},
        "pooled": dead,
        "kept": dead,
        "elsewhere": {**dead, "mlgym.home": "another"},
    }
    markers = Markers()
    markers.write(_marker("b"))
    spec = {name: SandboxSpec(name=f"orphans-{name}", environment="light", labels=named[name]) for name in named}
    try:
        for each in spec.values():
            await (await used.create(each)).detach()
        removed = await remove_orphans(used, markers, ["orphans-kept"])
        assert {name.removeprefix("orphans-") for name in removed} == {"unknown", "player", "pooled"}
        assert set(await left(backend)) == {f"orphans-{n}" for n in ("living", "claimed", "kept", "elsewhere")}
    finally:
        for each in spec.values():
            await used.remove(each.name)


def _marker(session: str) -> Marker:
    pid = os.getpid()
    return Marker(
        session, "secret", "/nowhere", "toy", "mini", 0, {}, {}, 45.0, None, "bubblewrap", None, "here", pid,
        process_started(pid),
    )  # fmt: skip


def test_markers_are_for_their_owner_only_and_unreadable_ones_are_thrown_away(own_home: Path) -> None:
    markers = Markers()
    markers.write(_marker("good"))
    path = markers.folder / "good.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for name, text in {
        "torn": '{"session": "torn"',
        "list": "[]",
        "other": path.read_text(),
        "more": '{"session": "more", "x": 1}',
        "binary": "\udcff",
    }.items():
        (markers.folder / f"{name}.json").write_bytes(text.encode(errors="surrogateescape"))
    (marker,) = markers.every()
    assert (marker.session, marker.owned) == ("good", True)
    assert [each.name for each in sorted(markers.folder.glob("*.json"))] == ["good.json"]


async def test_a_damaged_journal_or_an_unknown_task_ends_nothing_but_its_own_session(
    kill: Any, backend: str, own_home: Path
) -> None:
    doomed, other = kill(), kill()
    told, lost = doomed.kill(), other.kill()
    journal = Path(lost["episode"]) / "events.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"calls":10', b'"calls":99', 1))
    async with next_server(backend) as registry:
        assert [session.id for session in registry.sessions()] == [told["id"]]
        await ready(registry, told["id"])
        assert await left(backend) == [told["sandbox"]], "the damaged one's is removed"
        assert b'"end"' not in journal.read_bytes()


def test_a_torn_note_does_not_take_the_next_one_with_it(tmp_path: Path) -> None:
    episode = Episode(tmp_path / "e")
    Notes(episode).write("first", ())
    path = tmp_path / "e" / "notes.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": 2, "t": 1.0, "te')
    notes = Notes(episode)
    notes.write("second", ())
    episode.close()
    assert [note.text for note in Notes(episode).search("", 9)] == ["second", "first"]


async def test_the_end_of_the_dead_is_written_once_and_keeps_a_final_score(tmp_path: Path) -> None:
    assert not await end_dead(tmp_path / "missing", "gone")
    journal = Journal(tmp_path)
    journal.append("score", valid=True, kind="submit", metrics={"accuracy": 1.0})
    journal.close()
    assert await end_dead(tmp_path, "gone")
    assert not await end_dead(tmp_path, "gone")
    (end,) = [event for event in read_journal(tmp_path) if event.type == "end"]
    assert (end["outcome"], end["score"]["metrics"]) == ("scored", {"accuracy": 1.0})
