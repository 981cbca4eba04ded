"""The limits that end a session: measured and looked after while it lives."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio

from mlgym_mcp.session.errors import EpisodeOverError
from mlgym_sandbox.errors import SandboxError, SandboxLostError

if TYPE_CHECKING:
    from mlgym_mcp.session.ending import Outcome
    from mlgym_mcp.session.session import Session

_ROUND_S = 2.0


class Watch:
    """Looks after the limits of one session, and keeps its sandbox's time to live fresh by asking."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def run(self, ending: anyio.Event) -> None:
        """Look, from when the sandbox is there until the end has begun."""
        session = self._session
        await session.wait_ready()
        while session.over is None:
            with anyio.move_on_after(min(_ROUND_S, session.meter.wall_left_s, session.meter.idle_left_s)):
                await ending.wait()
            await self.check_limits()

    async def check_limits(self) -> None:
        """Measure, and end the session if its wall time, CPU seconds or idle time are over."""
        session = self._session
        if session.meter.wall_left_s > 0:  # a sandbox that hangs does not lengthen the time
            await self.measure()
        if session.over is None and (spent := session.meter.exhausted()) is not None:
            await session.end("budget_exhausted" if session.calls.made else "abandoned", spent)
        if session.over is None and await self._idle():
            await session.end(*self._idle_end())

    async def measure(self) -> None:
        """Bring the meter's CPU seconds and disk up to date."""
        session = self._session
        sandbox = session.connected
        if sandbox is None:
            return
        try:
            with anyio.fail_after(5):
                usage = await sandbox.usage()
            session.meter.cpu_s = max(session.meter.cpu_s, usage.cpu_s)
            session.meter.disk_mb = usage.disk_bytes / (1 << 20)
        except SandboxLostError as exc:
            try:
                await session.recover(sandbox, exc)
            except EpisodeOverError:
                return
        except (SandboxError, TimeoutError):
            return  # a busy machine: the next round measures again

    async def _idle(self) -> bool:
        """Whether the idle time is over: no call in flight, nothing being graded, no job that runs or ran lately."""
        session = self._session
        meter = session.meter
        if session.calls.in_flight or session.scoring.grading:
            meter.touch()
        if meter.idle_left_s > 0 or (sandbox := session.connected) is None:
            return False
        try:
            with anyio.fail_after(5):
                for job in await sandbox.jobs():
                    meter.touch(0 if job.state == "running" else time.time() - (job.started + job.seconds))
        except (SandboxError, TimeoutError):
            meter.touch()  # whether a job runs cannot be told now: the next round looks again
        return not session.calls.in_flight and meter.idle_left_s <= 0

    def _idle_end(self) -> tuple[Outcome, str]:
        meter = self._session.meter
        idle = meter.idle_text()
        if meter.calls_exhausted():
            return "budget_exhausted", f"the {meter.budget.calls} tool calls are spent and {idle}"
        return "abandoned", idle
