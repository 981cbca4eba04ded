"""Runs a sweep: plays what has no result yet, tries again what was lost, drains when asked to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import anyio

from mlgym_clients.sweep.attempt import Attempt, Finished, Lost, Needs, News, Opened, Order
from mlgym_clients.sweep.board import Board, Watcher
from mlgym_clients.sweep.engine import Engine, EngineError
from mlgym_clients.sweep.folder import SweepFolder

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_MOST_IN_A_ROW = 10
"""So many attempts given up without one that ended in between: what they need is not there."""


Ended = Literal["through", "drained", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Given:
    """What an attempt was given up for, in this run; a resumed sweep tries it again."""

    attempt: Attempt
    reason: str


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run of a sweep ended.

    Attributes:
        total: attempts of the sweep.
        finished: those with a result, from earlier runs included.
        now: those that got theirs in this run.
        found: those of ``now`` that had finished in an earlier try, and were not played again.
        losses: tries that were lost, in all runs.
        given_up: attempts without a result that will get none by trying again now.
        ended: whether all was tried, it was drained, stopped, or the engine failed.
        problem: what was wrong with the engine.
    """

    total: int
    finished: int
    now: int
    found: int
    losses: int
    given_up: Sequence[Given]
    ended: Ended
    problem: str = ""

    @property
    def complete(self) -> bool:
        """Whether every attempt has a result."""
        return self.finished == self.total


class Sweep:
    """One run of a sweep.

    Args:
        folder: of the sweep.
        engine: running.
        attempts: all of the sweep.
        board: what is shown of it.
        watcher: who looks on.
        needs: what an attempt takes of a machine.
        pause_s: the pause before a lost attempt is tried again; it doubles.
    """

    def __init__(
        self,
        folder: SweepFolder,
        engine: Engine,
        attempts: Iterable[Attempt],
        board: Board,
        watcher: Watcher,
        *,
        needs: Callable[[Attempt], Needs] = lambda _: Needs(),
        pause_s: float = _FIRST_PAUSE_S,
    ) -> None:
        self._folder = folder
        self._engine = engine
        self._attempts = list(attempts)
        self._board = board
        self._watcher = watcher
        self._needs = needs
        self._pause_s = pause_s
        self._spec = folder.manifest.spec
        self._given_up: list[Given] = []
        self._refused: dict[str, str] = {}
        self._now = self._found = self._in_a_row = 0
        self._draining = anyio.Event()
        self._stopping: Literal["stopped", "failed"] | None = None
        self._problem = ""
        self._scope = anyio.CancelScope()

    def drain(self) -> None:
        """Begin nothing more; what is played goes on to its end."""
        self._draining.set()
        self._board.draining = True

    def stop(self) -> None:
        """End what is played, too; its attempts have no result."""
        self.drain()
        self._stopping = self._stopping or "stopped"
        self._scope.cancel()

    async def run(self) -> Summary:
        """Play all attempts that have no result; returns when there is nothing more to do."""
        done = self._folder.ledger.finished()
        for line in self._folder.ledger.lines():
            self._board.count(line)
        waiting = deque(attempt for attempt in self._attempts if attempt.id not in done)
        slots = min(self._spec.max_sessions or self._engine.capacity, len(waiting))
        with self._scope:
            async with anyio.create_task_group() as tasks:
                for _ in range(slots):
                    tasks.start_soon(self._work, waiting)
        finished = self._folder.ledger.finished()
        left = len(self._attempts) - len(finished & {attempt.id for attempt in self._attempts})
        ended: Ended = self._stopping or (
            "drained" if self._draining.is_set() and left > len(self._given_up) else "through"
        )
        return Summary(
            total=len(self._attempts),
            finished=len(self._attempts) - left,
            now=self._now,
            found=self._found,
            losses=self._folder.ledger.losses(),
            given_up=self._given_up,
            ended=ended,
            problem=self._problem,
        )

    async def _work(self, waiting: deque[Attempt]) -> None:
        while waiting and not self._draining.is_set():
            attempt = waiting.popleft()
            try:
                await self._until_settled(attempt)
            except EngineError as exc:
                self._problem = self._problem or str(exc)
                self._stopping = "failed"
                self.stop()

    async def _until_settled(self, attempt: Attempt) -> None:
        """Try an attempt until it has a result, or there is no use in trying."""
        pause = self._pause_s
        for left in reversed(range(self._spec.infrastructure_retries + 1)):
            if (reason := self._refused.get(attempt.agent)) is not None:
                self._give_up(attempt, reason)
                return
            lost = await self._try(attempt)
            if lost is None:
                return
            again = left > 0 and not lost.permanent
            if lost.permanent and lost.agent_only:
                self._refused.setdefault(attempt.agent, lost.reason)
            self._board.losses += 1
            self._watcher.lost(self._board, attempt, self._folder.ledger.past(attempt).tries, lost, again)
            if not again:
                self._give_up(attempt, lost.reason)
                return
            with anyio.move_on_after(pause):
                await self._draining.wait()
            if self._draining.is_set():
                return
            pause = min(_LONGEST_PAUSE_S, pause * 2)

    async def _try(self, attempt: Attempt) -> Lost | None:
        """Play one try; returns what it was lost to, or nothing if the attempt has its result."""
        ledger = self._folder.ledger
        past = ledger.past(attempt)
        number = past.tries + 1
        order = Order(
            attempt,
            number,
            self._folder.manifest.id,
            budget=self._spec.budget.given(),
            sandbox=self._spec.sandbox,
            needs=self._needs(attempt),
            earlier=past.session,
        )

        def tell(news: News) -> None:
            if isinstance(news, Opened):
                ledger.opened(attempt, number, news.session, news.episode, news.node)
            self._board.news(attempt, news)

        ledger.begin(attempt, number)
        self._board.begun(attempt, number)
        try:
            verdict = await self._engine.play(order, tell, self._folder.messages(attempt, number))
        except anyio.get_cancelled_exc_class():
            ledger.end(attempt, number, "stopped", "the sweep was stopped")
            raise
        except EngineError as exc:
            ledger.end(attempt, number, "lost", str(exc))
            raise
        finally:
            self._board.over(attempt)
        if isinstance(verdict, Finished):
            self._commit(attempt, number, verdict)
            return None
        ledger.end(attempt, number, "refused" if verdict.permanent else "lost", verdict.reason)
        return verdict

    def _commit(self, attempt: Attempt, number: int, verdict: Finished) -> None:
        losses = self._folder.ledger.past(attempt).losses
        line: Mapping[str, Any] | None = self._folder.commit(attempt, number, verdict, losses)
        if line is None:
            return
        self._in_a_row = 0
        self._now += 1
        self._found += bool(line.get("found"))
        self._board.count(line)
        self._watcher.finished(self._board, line)

    def _give_up(self, attempt: Attempt, reason: str) -> None:
        self._board.given_up += 1
        self._given_up.append(Given(attempt, reason))
        self._in_a_row += attempt.agent not in self._refused
        if self._in_a_row == _MOST_IN_A_ROW and not self._draining.is_set():
            self._problem = f"{_MOST_IN_A_ROW} attempts in a row came to nothing; the last one: {reason}"
            self._stopping = "failed"
            self.drain()
