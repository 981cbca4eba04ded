"""Sessions made and ended at random, for minutes; then nothing of them may be left but their episodes.

    python bench/soak.py [--minutes 10] [--backends bubblewrap,docker] [--at-once 8] [--warm N] [--seed N]

Lives are drawn at random: deleted at birth, played, left with a client killed in mid-call, deleted in mid-call,
submitted, left until the budget is spent, left with processes that do not want to end, followed by readers that go
away. Afterwards the server is looked at while it runs (descriptors, children, memory) and the machine when it has
ended by itself: processes, containers and volumes, mounts, loop devices, control groups, and every file of its home
but the episodes. Prints a table, and exits with 1 if anything is left or any answer was wrong.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
import leaks
from fleet import mixed_calls
from procfs import look
from servers import TASK, ManyServer, many_server, own_home
from wire import Control, Session, WireError

from mlgym_mcp.session.journal import JournalError, read_journal

OUTCOMES = ("scored", "invalid_submission", "budget_exhausted", "abandoned")
"""Every other one would be our own failure."""
_SETTLED_S = 30.0
_SAMPLE_S = 2.0
_GROWTH_KIB = 96.0
"""Of server memory for each ended session, for which it answers another 15 minutes: more would be a leak."""
_ENOUGH = 200
"""Of so many sessions at least the growth is judged: a few only stir up the allocator."""


@dataclass
class Soak:
    """One run.

    Attributes:
        server: the server's process.
        draw: decides everything.
        backends: which sandboxes.
        task: what is played.
        lives: how often each kind of life was led to its end.
        problems: what should not have happened.
        episodes: of all sessions made.
        names: of all sandboxes, or their beginnings.
        memory: seconds, sessions ended and the server's resident bytes, again and again.
    """

    server: ManyServer
    draw: random.Random
    backends: list[str]
    task: str
    lives: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    episodes: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    memory: list[tuple[float, int, int]] = field(default_factory=list)

    async def live(self, control: Control, life: Life, backend: str) -> None:
        """Make one session and lead one life with it."""
        limits = {"wall_s": self.draw.uniform(2, 4)} if life is spend else {"wall_s": 600.0}
        budget = {**limits, "calls": 1000}
        session = await control.create(self.task, budget=budget, sandbox=backend)
        self.episodes.append(session.episode)
        self.names |= {f"mlgym-{session.id[:24]}", f"mlgym-player-{session.id[:12]}"}
        try:
            await life(self, control, session)
            await self.ended(control, session)
            self.lives[life.__name__] += 1
        finally:
            session.close()

    def random_lives(self, seconds: float) -> Iterator[tuple[Life, str]]:
        """Yield kinds of lives and backends, for so many seconds."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            yield self.draw.choice(LIVES), self.draw.choice(self.backends)

    async def ended(self, control: Control, session: Session) -> None:
        """Wait for a session's end and note one that should not be."""
        with anyio.fail_after(120):
            while (view := await control.view(session.id))["outcome"] is None:
                await anyio.sleep(0.1)
        if view["outcome"] not in OUTCOMES:
            self.problems.append(f"{session.episode}: {view['outcome']}: {view['detail']}")

    async def calls(self, session: Session, number: int) -> None:
        """Make some calls."""
        for tool, arguments in mixed_calls(number, self.draw.getrandbits(32)):
            result = await session.call(tool, arguments)
            if result.get("isError"):
                self.problems.append(f"{tool}: {result['content'][0]['text'][:300]}")

    async def watch(self) -> None:
        """Note the server's memory, and the names of sandboxes that belong to nobody yet, until cancelled."""
        begin = time.monotonic()
        while True:
            ended = sum(self.lives.values())
            self.memory.append((time.monotonic() - begin, ended, look(self.server.pid).resident))
            folder = self.server.home / "run" / "bubblewrap"
            if folder.is_dir():
                self.names |= {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
            await anyio.sleep(_SAMPLE_S)

    def growth_kib(self) -> float:
        """Return the server's memory per ended session, KiB, in the second half of the run: a least-squares slope."""
        late = self.memory[len(self.memory) // 2 :]
        if len({ended for _, ended, _ in late}) < 2:
            return 0.0
        slope, _ = statistics.linear_regression([e for _, e, _ in late], [r / 1024 for _, _, r in late])
        return slope


async def delete_at_birth(soak: Soak, control: Control, session: Session) -> None:
    """Delete a session whose sandbox is being started."""
    await anyio.sleep(soak.draw.choice((0.0, 0.0, 0.02, 0.1)))
    await control.delete(session.id)


async def play(soak: Soak, control: Control, session: Session) -> None:
    """Work, and be deleted."""
    await soak.calls(session, soak.draw.randrange(1, 30))
    await control.delete(session.id)


async def vanish(soak: Soak, control: Control, session: Session) -> None:
    """Lose the client in mid-call, perhaps come back, and be deleted."""
    with anyio.move_on_after(soak.draw.uniform(0.05, 1.0)):
        await session.call("shell", {"command": "sleep 600"})
    if soak.draw.random() < 0.5:
        await soak.calls(session, 3)
    await control.delete(session.id)


async def delete_in_mid_call(soak: Soak, control: Control, session: Session) -> None:
    """Be deleted while calls are in flight: they must be answered."""
    other = Session(soak.server.port, {"id": session.id, "episode": session.episode, "token": session.token})

    async def long(connection: Session, command: str) -> None:
        try:
            result = await connection.call("shell", {"command": command})
        except WireError as exc:
            soak.problems.append(f"{session.episode}: a call in flight was not answered: {exc}")
            return
        if "over" not in result["content"][0]["text"]:
            soak.problems.append(f"{session.episode}: a call in flight said {result['content'][0]['text'][:200]!r}")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(long, session, "cat /dev/zero > big; sleep 600")
        tasks.start_soon(long, other, "sleep 600 & setsid sleep 600")
        await anyio.sleep(soak.draw.uniform(0.2, 1.5))
        await control.delete(session.id)
    other.close()


async def submit(soak: Soak, control: Control, session: Session) -> None:
    """Work, validate perhaps, submit what there is, and be deleted if that was nothing."""
    await soak.calls(session, 3)
    if soak.draw.random() < 0.5:
        await session.call("validate", {})
    await session.call("submit", {})
    await control.delete(session.id)


async def spend(soak: Soak, _: Control, session: Session) -> None:
    """Work until the wall time is over."""
    await soak.calls(session, 5)
    await session.call("shell", {"command": "sleep 600"})


async def leave_processes(soak: Soak, control: Control, session: Session) -> None:
    """Leave behind what does not want to end."""
    command = "for i in 1 2 3; do setsid nohup bash -c 'trap \"\" TERM HUP INT; sleep 900' & done; sleep 0.1"
    await session.call("shell", {"command": command})
    await soak.calls(session, 2)
    await control.delete(session.id)


async def be_followed(soak: Soak, control: Control, session: Session) -> None:
    """Have readers that go away without a word."""
    reader = Control(soak.server.port, soak.server.token)
    with anyio.move_on_after(soak.draw.uniform(0.1, 1.0)):
        await reader.request("GET", f"/api/sessions/{session.id}/events")
    await soak.calls(session, 5)
    with anyio.move_on_after(0.05):
        await reader.request("GET", f"/api/sessions/{session.id}/events")
    reader.close()
    await control.delete(session.id)


Life = Callable[[Soak, Control, Session], Awaitable[None]]
LIVES: tuple[Life, ...] = (
    delete_at_birth,
    play,
    vanish,
    delete_in_mid_call,
    submit,
    spend,
    leave_processes,
    be_followed,
)


@dataclass
class Found:
    """What was left of one kind of thing."""

    kind: str
    before: int
    after: int
    left: list[str]


async def settled(look_at: Callable[[], list[str]]) -> list[str]:
    """Look until nothing is left or for some seconds; return what is."""
    with anyio.move_on_after(_SETTLED_S):
        while left := await anyio.to_thread.run_sync(look_at):
            await anyio.sleep(0.25)
    return left


async def run(arguments: argparse.Namespace, place: Path) -> tuple[Soak, list[Found]]:
    """Soak a server and look for what is left."""
    backends = arguments.backends.split(",")
    options = ("--warm", str(arguments.warm))
    found: list[Found] = []
    async with many_server(place, backends[0], options) as server:
        soak = Soak(server, random.Random(arguments.seed), backends, arguments.task)

        async def lead(lives: Iterator[tuple[Life, str]]) -> None:
            control = Control(server.port, server.token)
            for life, backend in lives:
                try:
                    await soak.live(control, life, backend)
                except (WireError, TimeoutError, KeyError) as exc:
                    soak.problems.append(f"{life.__name__} in {backend}: {type(exc).__name__}: {exc}")
            control.close()

        async def all_at_once(lives: Iterator[tuple[Life, str]]) -> None:
            async with anyio.create_task_group() as tasks:
                for _ in range(arguments.at_once):
                    tasks.start_soon(lead, lives)

        await all_at_once(iter([(life, backend) for life in LIVES for backend in backends]))  # what is made once, is
        await anyio.sleep(arguments.rest)
        files, before = leaks.descriptors(server.pid), leaks.tree(place)
        helpers = len(leaks.zombies_and_helpers(server.pid))
        soak.lives.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(soak.watch)
            await all_at_once(soak.random_lives(arguments.minutes * 60))
            await anyio.sleep(arguments.rest)
            tasks.cancel_scope.cancel()

        def more_files() -> list[str]:
            return [f"{number}x {kind}" for kind, number in (leaks.descriptors(server.pid) - files).items()]

        left = await settled(more_files)
        found.append(Found("descriptors", files.total(), leaks.descriptors(server.pid).total(), left))
        left = await settled(lambda: leaks.zombies_and_helpers(server.pid)[helpers:])
        found.append(Found("children", helpers, len(leaks.zombies_and_helpers(server.pid)), left))
        growth = soak.growth_kib()
        judged = len(soak.episodes) >= _ENOUGH
        first, last = soak.memory[0][2] >> 20, soak.memory[-1][2] >> 20
        leak = [f"{growth:.1f} KiB for each ended session"] if judged and growth > _GROWTH_KIB else []
        found.append(Found("memory, MiB", first, last, leak))
        if not arguments.warm:
            fresh = leaks.tree(place)
            left = [f"{name} ({fresh[name]} bytes)" for name in sorted(fresh.keys() - before.keys())]
            found.append(Found("files while it runs", len(before), len(fresh), left))
    for kind, look_at in (
        ("processes", lambda: leaks.processes(place, ())),
        ("containers, volumes", lambda: leaks.containers(place)),
        ("mounts", lambda: leaks.mounts(place)),
        ("loop devices", lambda: leaks.loop_devices(place)),
        ("control groups", lambda: leaks.cgroups(soak.names)),
        ("files", lambda: [name for name in leaks.tree(place) if name.startswith("run") and "mlgym-" in name]),
    ):
        left = await settled(look_at)
        found.append(Found(kind, 0, len(left), left))
    fresh = leaks.tree(place)
    left = [f"{name} ({fresh[name]} bytes)" for name in fresh if fresh[name] > before.get(name, -1)]
    found.append(Found("bytes beyond the episodes", sum(before.values()), sum(fresh.values()), left))
    check_episodes(soak, place)
    return soak, found


def check_episodes(soak: Soak, place: Path) -> None:
    """Every session made has an episode that can be read and ends once."""
    for name in soak.episodes:
        try:
            ends = sum(event.type == "end" for event in read_journal(place / "episodes" / name))
        except (JournalError, OSError) as exc:
            soak.problems.append(f"{name}: {exc}")
            continue
        if ends != 1:
            soak.problems.append(f"{name} has {ends} ends")


def main() -> None:
    """Run the soak and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--backends", default="bubblewrap")
    parser.add_argument("--at-once", type=int, default=8, help="sessions")
    parser.add_argument("--warm", type=int, default=0, help="size of the warm pool")
    parser.add_argument("--rest", type=float, default=5.0, help="seconds that the server is left alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--task", default=TASK)
    arguments = parser.parse_args()
    with own_home(arguments.task) as place:
        soak, found = anyio.run(run, arguments, place)
    console = Console(width=120)
    table = Table("what", "before", "after", "left behind", title=f"{len(soak.episodes)} sessions")
    for each in found:
        table.add_row(each.kind, str(each.before), str(each.after), "; ".join(each.left)[:300] or "nothing")
    console.print(table)
    lives = ", ".join(f"{name} {number}" for name, number in sorted(soak.lives.items()))
    console.print(f"lives: {lives}\nserver memory for each ended session: {soak.growth_kib():.1f} KiB")
    for problem, number in Counter(soak.problems).most_common(20):
        console.print(f"{number}x {problem}", style="red", markup=False)
    if soak.problems or any(each.left for each in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
