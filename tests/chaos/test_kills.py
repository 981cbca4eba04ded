"""Servers killed with -9 at random moments under sessions at work: what was acknowledged is there, once, for ever.

Each home lives through several servers; each server is killed at a moment that its seed decides, some before they
have answered at all. The clients' schedule is random too. In the end the journals are held against what the clients
were told.
"""

from __future__ import annotations

import random
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from mcp import Client, MCPError

from mlgym_mcp.session.journal import Event, read_journal
from mlgym_mcp.session.markers import Markers
from mlgym_mcp.session.notes import Notes
from mlgym_sandbox import get_backend
from tests.attacks.conftest import Server, leftovers
from tests.chaos.killable import Killable
from tests.serving.conftest import backend, light, own_home
from tests.toy import CSV, TASK, make_toy

__all__ = ["backend", "light", "own_home"]  # fixtures
pytestmark = pytest.mark.anyio

SESSIONS = 3
LIVES = 10
HOMES = 5
LONGEST_S = 0.5
EARLY = 0.2
"""How many servers are killed before they answer, and how many before their clients were told anything."""
_E = TypeVar("_E", bound=BaseException)
TOY = TASK.replace("max_calls = 3", "max_calls = 10000").replace("steps = 40", "steps = 100000")


@dataclass
class Told:
    """What one session's clients were told, and what they asked for."""

    made: dict[str, Any]
    mode: str
    results: dict[str, str] = field(default_factory=dict)
    """By tag: the text of each acknowledged call."""
    files: set[str] = field(default_factory=set)
    notes: set[str] = field(default_factory=set)
    shown: list[float] = field(default_factory=list)
    job: tuple[str, str] | None = None
    """A running job's id and what it was seen to print."""
    final: float | None = None
    deleted: bool = False

    @property
    def over(self) -> bool:
        return self.final is not None or self.deleted


class Player:
    """One session's client in one server's life: does what its dice say until the server is dead."""

    def __init__(self, server: Killable, told: Told, dice: random.Random, life: int, at_work: anyio.Event) -> None:
        self.server, self.told, self.dice, self.life, self.at_work = server, told, dice, life, at_work
        self.asked = 0

    async def play(self) -> None:
        async with self.server.playing(self.told.made, self.told.mode) as client:
            while "The session is still" in await self.call(client, "job_list"):
                pass
            await self.look(client)
            self.at_work.set()
            while not self.told.over:
                action = self.dice.choices(
                    [self.shell, self.write, self.note, self.job, self.validate, self.look, self.submit, self.delete],
                    [30, 15, 15, 8, 10, 5, 1, 1],
                )[0]
                await action(client)

    async def call(self, client: Client, tool: str, **arguments: object) -> str:
        """Make a call and remember what it was told, by a tag that only this call has."""
        self.asked += 1
        result = await client.call_tool(tool, arguments)
        text = "\n".join(block.text for block in result.content)
        assert not result.is_error, text
        return text

    def tag(self) -> str:
        return f"tag{self.life}-{self.told.made['id'][:6]}-{self.asked}"

    async def shell(self, client: Client) -> None:
        tag = self.tag()
        text = await self.call(client, "shell", command=f"echo {tag}")
        if tag in text:
            self.told.results[f"echo {tag}"] = text

    async def write(self, client: Client) -> None:
        tag = self.tag()
        text = await self.call(client, "write_file", path=f"{tag}.txt", content=tag)
        if text.startswith("Wrote"):
            self.told.results[f"{tag}.txt"] = text
            self.told.files.add(tag)

    async def note(self, client: Client) -> None:
        tag = self.tag()
        text = await self.call(client, "note_write", text=tag)
        if "Kept" in text:
            self.told.results[tag] = text
            self.told.notes.add(tag)

    async def job(self, client: Client) -> None:
        if self.told.job is not None:
            return
        tag = self.tag()
        command = f"i=0; while true; do echo {tag} $((i++)); sleep 0.05; done"
        text = await self.call(client, "shell", command=command)
        if (found := re.search(r'job_wait\(job_id="(\w+)"\)', text)) is not None:
            self.told.results[command] = text
            self.told.job = (found[1], text.partition("[job")[0])

    async def validate(self, client: Client) -> None:
        await self.call(client, "write_file", path="submission.csv", content=CSV)
        self.asked += 1
        result = await client.call_tool("validate", {})
        if result.structured_content is not None and result.structured_content.get("valid"):
            self.told.shown.append(result.structured_content["score"])

    async def submit(self, client: Client) -> None:
        await self.call(client, "write_file", path="submission.csv", content=CSV)
        result = await client.call_tool("submit", {})
        if result.structured_content is not None and result.structured_content.get("valid"):
            self.told.final = result.structured_content["score"]

    async def delete(self, _: Client) -> None:
        await self.server.api("DELETE", f"/sessions/{self.told.made['id']}")
        self.told.deleted = True

    async def look(self, client: Client) -> None:
        """All that was acknowledged is still there."""
        if self.told.files:
            name = self.dice.choice(sorted(self.told.files))
            text = await self.call(client, "read_file", path=f"{name}.txt")
            assert name in text or "The episode is over" in text, text
        if self.told.notes:
            text = await self.call(client, "note_search", query="", limit=50)
            newest = max(self.told.notes, key=lambda tag: (int(tag[3:].split("-")[0]), int(tag.split("-")[-1])))
            assert newest in text or "The episode is over" in text, text
        if self.told.job is not None:
            job, printed = self.told.job
            text = await self.call(client, "job_output", job_id=job, offset=0, limit=20_000)
            if "The episode is over" in text:
                return
            assert text.startswith(printed), (printed, text[: len(printed)])
            assert "still running" in text, text[-300:]
            self.told.job = (job, text.rpartition("\n[bytes")[0])


async def live(server: Killable, tolds: dict[str, Told], seed: int, life: int) -> None:
    """One server's life, and its death."""
    dice = random.Random(seed)
    failures: list[BaseException] = []
    if dice.random() < EARLY:
        server.spawn()
        await anyio.sleep(dice.uniform(0, 0.6))
        server.kill()
    for told in tolds.values():  # an end that was recorded, but that nobody was told of: its server died in between
        folder = server.home / "episodes" / told.made["episode"]
        told.deleted = told.deleted or any(event.type == "end" for event in read_journal(folder))
    await server.start()
    dead, at_work = False, anyio.Event()

    async def play(key: str, own: random.Random) -> None:
        try:
            if key not in tolds:
                made = await server.api("POST", "/sessions", {"task": "toy", "idempotency_key": key})
                tolds[key] = Told(made, own.choice(["auto", "legacy"]))
            await Player(server, tolds[key], own, life, at_work).play()
        except AssertionError as exc:
            failures.append(exc)
        except Exception as exc:  # the server died: what was under way is not acknowledged
            if assertions := _all(exc, AssertionError):
                failures.extend(assertions)
            elif key in tolds and any("The episode is over" in str(error) for error in _all(exc, MCPError)):
                tolds[key].deleted = True  # its last server died between the final score and the end: this one ended it
            elif not dead:
                failures.append(exc)

    async with anyio.create_task_group() as tasks:
        busy = [key for key, told in tolds.items() if not told.over]
        for n in range(SESSIONS - len(busy)):
            busy.append(f"key-{life}-{n}")
        for key in busy:
            tasks.start_soon(play, key, random.Random(f"{seed} {key}"))
        if life == 0 or dice.random() > EARLY:
            with anyio.move_on_after(20):  # they may all have come to their end
                await at_work.wait()
        await anyio.sleep(dice.uniform(0.02, LONGEST_S))
        dead = True
        server.kill()
        await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()
    if failures:
        raise failures[0]


def _all(exc: BaseException, kind: type[_E]) -> list[_E]:
    if isinstance(exc, BaseExceptionGroup):
        return [found for inner in exc.exceptions for found in _all(inner, kind)]
    return [exc] if isinstance(exc, kind) else []


def hold_against(told: Told, events: list[Event], folder: Path, lives: int) -> None:
    """Check one session's journal; reading it has already checked that nothing is missing or changed."""
    calls = {event.seq: event for event in events if event.type == "call"}
    results = {event["call"]: event for event in events if event.type == "result"}
    assert len(results) == len([event for event in events if event.type == "result"]), "a result is there twice"
    assert set(results) <= set(calls)
    marks = Counter[str]()
    by_mark: dict[str, int] = {}
    for seq, event in calls.items():
        if event["tool"] in ("read_file", "note_search"):
            continue
        for mark in (str(event["arguments"].get(name)) for name in ("command", "path", "text")):
            marks[mark] += 1
            by_mark[mark] = seq
    for mark, text in told.results.items():
        assert marks[mark] == 1, f"{mark} was recorded {marks[mark]} times"
        assert results[by_mark[mark]]["text"] == text
    ends = [event for event in events if event.type == "end"]
    assert len(ends) == 1
    assert events[-1].type == "end"
    (end,) = ends
    scores = [event for event in events if event.type == "score" and event["valid"]]
    validations = [event for event in scores if event["kind"] == "validate"]
    finals = [event for event in scores if event["kind"] != "validate"]
    assert not Counter(told.shown) - Counter(event["shown"] for event in validations), "an acknowledged score is gone"
    assert len(finals) <= 1
    assert end["outcome"] != "infrastructure_error", end["reason"]
    if finals:
        assert (end["outcome"], end["score"]["shown"]) == ("scored", finals[0]["shown"])
    if told.final is not None:
        assert end["score"]["shown"] == told.final
    counted = sum(event["counted"] for event in calls.values())
    answered = sum(calls[seq]["counted"] for seq in results)
    assert end["spent"]["calls"] == counted
    assert counted - answered <= lives, "each death loses at most the one call that the session's client had made"
    assert end["spent"]["validations"] == len(validations)
    adoptions = [event for event in events if event.type == "adopted"]
    unanswered = {seq for event in adoptions for seq in event["unanswered"]}
    lost = set(calls) - set(results)
    if finals:  # a submit whose server died between score and answer left no more to the next one than to write the end
        lost -= {seq for seq in lost - unanswered if calls[seq]["tool"] == finals[0]["kind"]}
    assert unanswered == lost, "a call without a result is one that a server died over"
    started = [event for event in events if event.type == "sandbox" and event["state"] == "started"]
    if started:
        away = sum(event["away_s"] for event in adoptions if event.seq > started[-1].seq)
        wall = ends_at(events, end) - started[-1].t - away
        assert abs(end["spent"]["wall_s"] - wall) < 1 + 0.1 * len(adoptions)
    texts = [note.text for note in Notes(_Folder(folder)).search("", 10_000)]  # type: ignore[arg-type]
    assert all(texts.count(note) == 1 for note in told.notes)


def ends_at(events: list[Event], end: Event) -> float:
    """When the wall clock stopped: with the final score, or when the end was decided."""
    stops = [e.t for e in events if e.type == "ending" or (e.type == "score" and e["kind"] == "submit" and e["valid"])]
    return stops[0] if stops else end.t


@dataclass
class _Folder:
    folder: Path


@asynccontextmanager
async def killable(home: Path, backend: str) -> AsyncIterator[Killable]:
    server = Killable(home, backend, wait_s=0.3)
    try:
        yield server
    finally:
        server.close()


def home_of(server: Killable, tolds: Mapping[str, Told]) -> Server:
    return Server(server.home, server.home, "", sessions=[told.made["id"] for told in tolds.values()])


@pytest.mark.parametrize("first", [n * LIVES for n in range(HOMES)], ids=lambda n: f"seeds-{n}-to-{n + LIVES - 1}")
async def test_nothing_acknowledged_is_lost_however_often_the_server_is_killed(
    first: int, own_home: Path, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLGYM_TASKS", str(make_toy(tmp_path / "chaos", task=TOY)))
    tolds: dict[str, Told] = {}
    async with killable(own_home, backend) as server:
        for life, seed in enumerate(range(first, first + LIVES)):
            try:
                await live(server, tolds, seed, life)
            except Exception as exc:
                exc.add_note(f"with seed {seed}; the server said: {server.log.read_text()[-2000:]}")
                raise
        await server.start()
        listed = {each["id"]: each for each in (await server.api("GET", "/sessions?limit=100"))["sessions"]}
        for told in tolds.values():
            view = await server.api("GET", f"/sessions/{told.made['id']}")  # those that ended in an earlier life, too
            if not told.over and view["state"] != "over":
                async with server.playing(told.made, told.mode) as client:
                    await Player(server, told, random.Random(first), LIVES, anyio.Event()).look(client)
        for each in listed.values():
            await server.api("DELETE", f"/sessions/{each['id']}")
        server.kill(signal.SIGTERM)
        assert not server.errors()
        folders = {path.name: path for path in (own_home / "episodes").iterdir()}
        for told in tolds.values():
            folder = folders.pop(told.made["episode"])
            try:
                hold_against(told, list(read_journal(folder)), folder, server.lives)
            except AssertionError as exc:
                exc.add_note(f"session {folder.name} of the seeds from {first} on")
                raise
        for folder in folders.values():  # made, but its client was never told
            assert [event.type for event in read_journal(folder)].count("end") == 1
    assert len(tolds) >= SESSIONS
    assert not list(Markers().every())
    assert not await get_backend(backend, unsafe=True).find({"mlgym": "1"})
    with anyio.move_on_after(10):
        while leftovers(home_of(server, tolds)):
            await anyio.sleep(0.1)
    assert not leftovers(home_of(server, tolds))
