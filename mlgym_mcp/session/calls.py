"""The tool calls in flight in one session: admitted in order, bounded by the episode's end, journalled."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from mlgym_mcp.session.errors import EpisodeOverError, RefusedError, SessionError
from mlgym_mcp.session.gate import Gate, Mode
from mlgym_mcp.session.tracing import outcome_of, span

if TYPE_CHECKING:
    from mlgym_mcp.session.session import Session

T = TypeVar("T")

_LEAVING = (
    "The server is being restarted. Nothing is lost and running jobs go on: call again in a few seconds. Whether "
    "this call was carried out is not known: look (job_list, list_files)."
)


@dataclass(frozen=True, slots=True)
class CallSpec:
    """What kind of call a tool makes.

    Attributes:
        mode: how it runs beside others.
        counted: whether it counts against the budget of calls.
        after_end: whether it still answers when the episode is over.
    """

    mode: Mode = "shared"
    counted: bool = True
    after_end: bool = False


class Calls:
    """Runs the tool calls of a session: budget, journal, gate, end of the episode."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._gate = Gate()
        self._scopes: dict[anyio.CancelScope, bool] = {}
        self.made = 0

    @property
    def in_flight(self) -> int:
        """Calls that are running or waiting for their turn."""
        return len(self._scopes)

    def interrupt(self) -> None:
        """Turn every call in flight into an "episode over" answer, except one that is ending the episode."""
        for scope, ending in list(self._scopes.items()):
            if not ending:
                scope.cancel()

    async def leave(self, grace_s: float) -> None:
        """Wait up to ``grace_s`` seconds for the calls in flight, then tell the rest that the server restarts."""
        with anyio.move_on_after(grace_s):
            while self._scopes:
                await anyio.sleep(0.01)
        for scope in list(self._scopes):
            scope.cancel()
        with anyio.move_on_after(grace_s):
            while self._scopes:
                await anyio.sleep(0.01)

    async def perform(
        self,
        name: str,
        arguments: Mapping[str, Any],
        spec: CallSpec,
        run: Callable[[], Awaitable[T]],
        describe: Callable[[T], Mapping[str, Any]],
        *,
        client: Mapping[str, Any] | None = None,
    ) -> T:
        """Carry out one call: journal ``call``, wait for its turn, run it, journal ``result``, return.

        Args:
            name: the tool's name.
            arguments: as sent.
            spec: how it runs and counts.
            run: does the work.
            describe: what of the result the journal keeps.
            client: who called, for the journal (protocol, request id).

        Raises:
            RefusedError: the episode is over or the budget of calls is spent.
            JournalError: the call could not be recorded, so it was not carried out.
        """
        session = self._session
        journal = session.episode.journal
        refusal = self._refusal(name, spec)
        counted = refusal is None and spec.counted
        session.meter.calls += counted
        self.made += 1
        record = (
            journal.append(
                "call",
                tool=name,
                arguments=session.episode.shrink(arguments),
                counted=counted,
                **(client or {}),
            )
            if not session.closed
            else None
        )
        started = time.monotonic()
        outcome: dict[str, Any] = {"cancelled": True}
        with span(f"call {name}", session, more={"gen_ai.tool.name": name}, counted=counted) as made:
            try:
                if refusal is not None:
                    raise refusal
                result = await self._admitted(name, spec, run)
                outcome = dict(describe(result))
                return result
            except SessionError as exc:
                outcome = {"refused" if isinstance(exc, RefusedError) else "error": str(exc)}
                raise
            except Exception as exc:
                outcome = {"error": f"{type(exc).__name__}: {exc}"}
                raise
            finally:
                made.set_attribute("mlgym.outcome", outcome_of(outcome))
                session.touch()
                session.meter.touch()
                if record is not None and not session.closed:
                    seconds = round(time.monotonic() - started, 6)
                    journal.append("result", call=record.seq, seconds=seconds, **session.episode.trim(outcome))

    def _refusal(self, name: str, spec: CallSpec) -> RefusedError | None:
        session = self._session
        if session.leaving:
            return RefusedError(_LEAVING)
        if session.over is not None and not spec.after_end:
            return EpisodeOverError(session.over_text())
        if spec.counted and session.meter.calls_exhausted():
            return RefusedError(
                f"The budget of {session.meter.budget.calls} tool calls is spent, so {name} was not run. "
                "What is left: submit (scores what is in the workspace), status, job_wait and job_output."
            )
        return None

    async def apart(self, run: Callable[[], Awaitable[T]], *, whole: bool = False) -> T:
        """Run something that is no tool call as an exclusive one runs; ``whole``: the episode's end waits for it.

        Raises:
            RefusedError: the episode is over.
        """
        spec = CallSpec("exclusive", counted=False)
        if (refusal := self._refusal("", spec)) is not None:
            raise refusal
        return await self._admitted("", spec, run, whole)

    async def _admitted(self, name: str, spec: CallSpec, run: Callable[[], Awaitable[T]], whole: bool = False) -> T:
        session = self._session
        with anyio.CancelScope() as scope:
            self._scopes[scope] = False
            try:
                async with self._gate.hold(spec.mode):
                    if session.over is not None and not spec.after_end:  # it ended while this call waited for its turn
                        raise EpisodeOverError(session.over_text())
                    self._scopes[scope] = whole or name == "submit" or spec.after_end
                    return await run()
            finally:
                del self._scopes[scope]
        if session.leaving and session.over is None:
            raise RefusedError(_LEAVING)
        raise EpisodeOverError(session.over_text())
