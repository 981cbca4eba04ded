"""Tool calls that outlive the request that asked for them: sent again, left alone, or handed out as a task.

A connection may break in mid-call, and clients of the 2026-07-28 protocol then send the request again, under a new
request id. The same call must be the same job. So what may not be done twice (``shell``, ``validate``, ``submit``, but
an edit and a note, too) runs outside the request, which only waits: ending the wait never ends the work. Which request
is the same call as an earlier one:

- It carries the earlier one's key in ``_meta`` (``KEYS``), and the same tool and arguments.
- It carries the earlier one's request id in the same session of the protocols before 2026-07-28, and the same tool
  and arguments. There a broken connection tells nobody that it broke: the answer is kept for ``LOST_S`` seconds.
- It carries no key, the earlier one's answer never reached anybody, the tool and arguments are the same, and
  nothing was changed in between. Such an answer is delivered once, and kept for ``LOST_S`` seconds.

The same holds for calls over which an earlier server died: the journal has them. A command's job is followed on, a
recorded score is the answer, and a grading that died with its server is made again, uncharged where it is asked for
by the handle of its task.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
from mcp import MCPError
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.types import INTERNAL_ERROR, CallToolRequestParams, CallToolResult, TextContent

from mlgym_mcp.serving.carrying import carry_out, reply_of
from mlgym_mcp.serving.earlier import LONG, Earlier, read_earlier
from mlgym_mcp.serving.long_call import LongCall, digest_of, key_of, running_job
from mlgym_mcp.serving.request_ids import RequestId, RequestIds, request_of
from mlgym_mcp.serving.wrapping import failed, to_result
from mlgym_mcp.session.calls import CallSpec
from mlgym_mcp.session.errors import RefusedError, SessionError
from mlgym_mcp.session.journal import JournalError
from mlgym_mcp.session.owning import owned_tasks
from mlgym_mcp.session.session import Session
from mlgym_mcp.tools.jobs import follow
from mlgym_mcp.tools.reply import Call, Patience, Progress
from mlgym_mcp.tools.task import score_reply
from mlgym_mcp.tools.toolbox import BY_NAME, ToolSpec
from mlgym_sandbox.errors import SandboxError

LOST_S = 300.0
"""A call that has a name of its own, a key or a request id, is kept for so long, too."""
KEPT_S = 3600.0
"""A task is kept for so long after its end."""
_TASKS = 64
_OTHERS = 8
_QUICK_S = 1.0
"""A call that has ended within this time is answered, not handed out as a task."""


_APART = CallSpec("exclusive", counted=False, after_end=True)

Work = Callable[[], Awaitable[HandlerResult]]


class LongCalls:
    """All calls of one session, over whichever connection; ``running()`` owns those that outlive their requests."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._calls: dict[str, LongCall] = {}
        self._changes = 0
        self._ids = RequestIds()
        self._earlier: list[Earlier] = []
        self._tasks: anyio.abc.TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Own the calls; those that still run at the end are dropped."""
        if self.session.calls.made:  # by an earlier server
            with contextlib.suppress(JournalError, OSError, KeyError, TypeError):
                self._earlier = await anyio.to_thread.run_sync(read_earlier, self.session, LOST_S, KEPT_S)
        async with owned_tasks() as tasks:
            self._tasks = tasks
            try:
                yield
            finally:
                self._tasks = None

    def __len__(self) -> int:
        return len(self._calls)

    def task(self, task_id: str) -> LongCall | None:
        """Return the call that was handed out as a task under this id."""
        found = self._calls.get(task_id) or self._revived(task_id)
        return found if found is not None and found.is_task else None

    async def call(
        self,
        spec: ToolSpec,
        params: CallToolRequestParams,
        ctx: ServerRequestContext[Any, Any],
        call_next: CallNext,
        *,
        as_task: Callable[[LongCall], HandlerResult] | None = None,
    ) -> HandlerResult:
        """Carry out a tool call, or join the same one that was made before.

        Args:
            spec: the tool.
            params: its name, arguments and ``_meta``.
            ctx: the request.
            call_next: runs the tool.
            as_task: makes the handle of a task, for clients that take one.
        """
        arguments = params.arguments or {}
        request = request_of(ctx)
        brief = spec.read_only or spec.idempotent
        digest = "" if brief and request is None else digest_of(arguments)
        self._ids.note(request, f"{spec.name} {digest}")
        if brief or self._tasks is None:
            self._changes += not spec.read_only
            call = Call(self.session, ctx.session.report_progress)
            await anyio.lowlevel.checkpoint()  # a long call begins as much later: calls keep the order they came in
            return await self._carry_out(spec, arguments, call, ctx, call_next)
        as_task = as_task if spec.name in LONG else None
        key = key_of(params.meta)
        found = self._same(spec.name, digest, key, request)
        joined = found is not None
        if found is None:
            before = self._begun_before(spec.name, arguments, key)
            self._changes += 1
            found = LongCall(spec.name, digest, key, request, self._changes)
            self._calls[found.id] = found
            call = Call(self.session, found.progress, found.patience)
            handle = found.id if as_task is not None else None
            work: Work = partial(self._carry_out, spec, arguments, call, ctx, call_next, handle)
            if before is not None:
                command = arguments.get("command")
                work = partial(self._resumed, found, before, command if isinstance(command, str) else None, work)
            self._tasks.start_soon(self._run, found, work)
        if as_task is not None and not found.done.is_set():
            result = await self._attend(found, ctx, _QUICK_S, then_task=True)
            return as_task(found) if found.is_task else _noted(result, joined or found.resumed)
        window = self.session.config.wait_s if joined else math.inf  # a call that is not joined has its own
        return _noted(await self._attend(found, ctx, window), joined or found.resumed)

    def _same(self, name: str, digest: str, key: str | None, request: RequestId | None) -> LongCall | None:
        """Return the earlier call that a request asks for again."""
        self.prune()
        for call in reversed(self._calls.values()):
            if call.name != name or call.arguments != digest or call.key != key or call.cancelled:
                continue
            if key is not None or (call.lost is not None and call.change == self._changes):
                return call
            if request is not None and call.request == request:
                return call if self._ids.telling(request) or not call.done.is_set() else None
        return None

    def prune(self) -> None:
        """Drop what nobody will ask for: answered, or too old, or too many."""
        now = time.monotonic()
        room = {True: _TASKS, False: _OTHERS}
        for call in reversed(list(self._calls.values())):
            if call.ended is None:
                continue
            named = call.key is not None or (call.request is not None and self._ids.telling(call.request))
            wanted = call.is_task or named or call.lost is not None
            kept_s = KEPT_S if call.is_task else LOST_S
            if not wanted or now - max(call.ended, call.lost or 0.0) >= kept_s or not room[call.is_task]:
                del self._calls[call.id]
            else:
                room[call.is_task] -= 1

    async def _attend(
        self, call: LongCall, ctx: ServerRequestContext[Any, Any], at_most_s: float, *, then_task: bool = False
    ) -> HandlerResult:
        """Wait for a call's answer; after ``at_most_s`` seconds say to come back, or, ``then_task``, make it a task.

        If the wait is cut, the answer is kept for whoever asks for it again.
        """
        delivered = False
        listener = ctx.session.report_progress
        call.listeners.append(listener)
        call.lost = None
        try:
            with anyio.move_on_after(at_most_s):
                await call.done.wait()
            if not call.done.is_set():
                call.is_task = call.is_task or then_task
                if then_task and call.name == "shell":
                    call.patience.end()  # from here on its job is waited for where that is in nobody's way
                text = f"The {call.name} goes on. Call {call.name} again, just like this, to get its result."
                return failed(BY_NAME[call.name], RefusedError(text))
            answer = call.answer()
            if (job_id := call.job) is not None and call.patience.over:
                answer = await self._job(call, job_id, ctx.session.report_progress)  # its own wait had been cut short
            delivered = True
            return answer
        finally:
            call.listeners.remove(listener)
            if not delivered and not call.listeners and not call.is_task and call.failure is None:
                call.lost = time.monotonic()
                call.patience.end()

    def _begun_before(self, name: str, arguments: Mapping[str, Any], key: str | None) -> Earlier | None:
        """Return the call that a request asks for again, if an earlier server died over it or over its answer."""
        if not self._earlier:
            return None
        try:
            kept = digest_of(self.session.episode.shrink(arguments))
        except OSError:
            return None
        for before in self._earlier:
            if before.tool != name or before.key != key or digest_of(before.arguments) != kept:
                continue
            if key is not None or (before.answered is None and before.last and self._changes == 0):
                self._earlier.remove(before)
                return before
        return None

    async def _resumed(self, call: LongCall, before: Earlier, command: str | None, work: Work) -> HandlerResult:
        """Go on with what an earlier server began; ``work`` begins it, if it never came to that or is lost."""
        session = self.session
        try:
            job_id = await before.find_job(session, command) if before.tool == "shell" else None
        except SessionError as exc:
            return failed(BY_NAME[call.name], exc)
        if job_id is not None:
            call.resumed = True
            return await self._job(call, job_id, call.progress, before)
        if (score := before.score) is None:
            return await work()
        call.resumed = True

        async def answer() -> HandlerResult:
            return to_result(score_reply(session, score))

        about = {"follows": call.name, "of": before.seq}
        return await carry_out(session, BY_NAME[call.name], {}, _APART, answer, about)

    def _revived(self, task_id: str) -> LongCall | None:
        """Return the task that an earlier server handed out under this id, and go on with it."""
        before = next((each for each in self._earlier if each.handle is not None and each.handle == task_id), None)
        if before is None or self._tasks is None:
            return None
        digest = digest_of(before.arguments)
        made = LongCall(before.tool, digest, before.key, None, self._changes, id=task_id, is_task=True)
        made.created = datetime.fromtimestamp(before.begun, UTC)
        made.say("the server was restarted; it goes on")
        self._calls[made.id] = made
        self._earlier.remove(before)
        self._tasks.start_soon(self._run, made, partial(self._revive, made, before))
        return made

    async def _revive(self, call: LongCall, before: Earlier) -> HandlerResult:
        await self.session.wait_ready()  # or over
        spec = BY_NAME[call.name]
        if call.name == "shell":
            text = "The server was restarted before the command began: it was not run. Call shell again."
            return await self._resumed(call, before, None, partial(_refused, spec, text))
        return await self._resumed(call, before, None, partial(self._again, call))

    async def _again(self, call: LongCall) -> HandlerResult:
        """Ask for a score once more, at nobody's cost."""
        spec = BY_NAME[call.name]
        run = partial(reply_of, spec, Call(self.session, call.progress))
        return await carry_out(self.session, spec, {}, _APART, run, {"follows": call.name})

    async def _run(self, call: LongCall, work: Work) -> None:
        """Run a call to its end, whoever waits for it."""
        try:
            call.result = await self._to_the_end(call, await work())
        except Exception as exc:  # noqa: BLE001 - raised again for whoever waits
            call.failure = exc
        finally:
            if call.result is None and call.failure is None:
                call.failure = MCPError(code=INTERNAL_ERROR, message="the server is stopping")
            call.ended = time.monotonic()
            if not call.cancelled:
                call.say("done")
            call.done.set()

    async def _to_the_end(self, call: LongCall, result: HandlerResult) -> HandlerResult:
        """Follow what goes on after the first answer, if nobody is there to call again: a task's job, a grading."""
        session = self.session
        if call.name == "shell":
            job_id = running_job(result)
            if job_id is None or not call.is_task or call.cancelled:
                return result
            call.patience = Patience()
            with contextlib.suppress(SessionError, SandboxError):  # what is wrong, the next call says
                await follow(Call(session, call.progress, call.patience), job_id)
            return await self._job(call, job_id, call.progress)
        while self._goes_on(call, result) and (call.is_task or call.lost is not None):
            await session.scoring.settled()
            result = await self._again(call)
        return result

    def _goes_on(self, call: LongCall, result: HandlerResult) -> bool:
        """Whether a refusal means that the grading takes longer than one call may wait."""
        refused = isinstance(result, CallToolResult) and (result.meta or {}).get("refused") is True
        return refused and self.session.scoring.has(call.name)

    async def _job(
        self, call: LongCall, job_id: str, progress: Progress, before: Earlier | None = None
    ) -> HandlerResult:
        """Wait for a job as ``job_wait`` does, for a call that began it; ``before``: in an earlier server."""
        spec = BY_NAME["job_wait"]
        arguments = {"job_id": job_id, "wait_s": 3600}
        run = partial(reply_of, spec, Call(self.session, progress), **arguments)
        about = {"follows": call.name} | ({} if before is None else {"of": before.seq})
        return await carry_out(self.session, spec, arguments, spec.call, run, about)

    async def _carry_out(
        self,
        spec: ToolSpec,
        arguments: Mapping[str, Any],
        call: Call,
        ctx: ServerRequestContext[Any, Any],
        call_next: CallNext,
        handle: str | None = None,
    ) -> HandlerResult:
        own = replace(ctx, lifespan_context=call)
        client = {"era": ctx.protocol_version, "request": str(ctx.request_id)[:100]}
        if (key := key_of(ctx.meta)) is not None:
            client["key"] = key
        if handle is not None:
            client["handle"] = handle
        return await carry_out(self.session, spec, arguments, spec.call, lambda: call_next(own), client)


async def _refused(spec: ToolSpec, text: str) -> HandlerResult:
    return failed(spec, RefusedError(text))


def _noted(result: HandlerResult, joined: bool) -> HandlerResult:
    """Say that the answer is an earlier call's, in a text result."""
    if not joined or not isinstance(result, CallToolResult):
        return result
    meta = {**(result.meta or {}), "joined": True}
    if result.structured_content is not None:
        return result.model_copy(update={"meta": meta})
    text = "[This same call was sent before and its answer got lost: it was not run twice. To run it anew, call again.]"
    content = [*result.content, TextContent(type="text", text=text)]
    return result.model_copy(update={"content": content, "meta": meta})
