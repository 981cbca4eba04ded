"""Running commands: a call waits a while, the job goes on by itself."""

from __future__ import annotations

import math
import time
from typing import Annotated

from pydantic import Field

from mlgym_mcp.session.errors import MisuseError
from mlgym_mcp.tools.reply import MAX_CHARS, Call, Reply, cut, plural, size
from mlgym_sandbox import Sandbox
from mlgym_sandbox.errors import JobNotFoundError
from mlgym_sandbox.spec import JobStatus

_KEEP = 60_000
_FIRST_S = 1.0
"""Commands that end within this time cost one round trip and no progress report."""
_TICK_S = 2.0

JobId = Annotated[str, Field(description="The job's id, as shell or job_list told it.")]

_REASONS = {
    "timeout": "killed: its timeout_s was over",
    "stopped": "stopped",
    "oom": "killed: out of memory",
    "disk": "killed: the disk limit was exceeded; delete files before you go on",
    "session": "killed: the session ended",
}


async def shell(
    call: Call,
    command: Annotated[str, Field(description="A bash command line; may have several lines.")],
    timeout_s: Annotated[
        float, Field(gt=0, le=86_400, description="The command is killed when it runs longer, in seconds.")
    ] = 3600,
) -> Reply:
    """Run a bash command in the sandbox, in /workspace at first.

    The working directory and exported variables stay for the next call. Stdin is empty, there is no network.
    A command that runs longer than about 45 seconds goes on by itself as a job: the answer then has its job id
    and what it printed so far; use job_wait, job_output and job_stop with it. So start long trainings just like
    this, and let programs print their progress (python -u).
    """
    if not command.strip():
        raise MisuseError("The command is empty: pass a bash command line, for example 'ls -la'.")
    if "\0" in command:
        raise MisuseError("The command holds a NUL character, which no command line can.")
    async with call.session.working() as sandbox:
        status, output = await sandbox.run(
            command, wait_s=min(_FIRST_S, call.session.config.wait_s), timeout_s=timeout_s, keep_state=True
        )
        if status.state == "running":
            status = await _wait(call, sandbox, status, call.session.config.wait_s - status.seconds)
            output = await sandbox.output(status.id, 0, _KEEP)
        elif output.total > len(output.data):
            output = await sandbox.output(status.id, 0, _KEEP)
        return await _report(call, sandbox, status, output.data, output.total)


async def job_wait(
    call: Call,
    job_id: JobId,
    wait_s: Annotated[float, Field(ge=0, le=3600, description="How long to wait at most, in seconds.")] = 45,
) -> Reply:
    """Wait for a job to end, and show the end of its output. If it is still running then, call again."""
    async with call.session.working() as sandbox:
        try:
            status = await sandbox.wait(job_id, 0)
            if status.state == "running":
                status = await _wait(call, sandbox, status, min(wait_s, call.session.config.wait_s))
            tail = await sandbox.output(job_id, -8000, 8000)
        except JobNotFoundError as exc:
            raise await _unknown_job(sandbox, job_id) from exc
        return Reply(
            f"{_text(tail.data, tail.offset)}{_line(status)}",
            meta=_meta(status),
        )


async def job_output(
    call: Call,
    job_id: JobId,
    offset: Annotated[
        int, Field(description="Byte to start from; a negative number counts from the end, e.g. -5000.")
    ] = 0,
    limit: Annotated[int, Field(ge=1, le=20_000, description="How many bytes to show at most.")] = 20_000,
) -> Reply:
    """Show what a job has printed (stdout and stderr together), a piece at a time."""
    async with call.session.working() as sandbox:
        try:
            piece = await sandbox.output(job_id, offset, limit)
            status = await sandbox.wait(job_id, 0)
        except JobNotFoundError as exc:
            raise await _unknown_job(sandbox, job_id) from exc
    end = piece.offset + len(piece.data)
    rest = f"; next piece: job_output(job_id, offset={end})" if end < piece.total else ""
    gap = f" (bytes {offset} to {piece.offset} were not kept)" if 0 <= offset < piece.offset else ""
    return Reply(
        f"{_decode(piece.data)}\n[bytes {piece.offset} to {end} of {piece.total}{gap}{rest}] {_line(status)}",
        meta={**_meta(status), "offset": piece.offset, "next_offset": end, "total": piece.total},
    )


async def job_list(call: Call) -> Reply:
    """List all jobs of this session with their state."""
    async with call.session.working() as sandbox:
        jobs = await sandbox.jobs()
    if not jobs:
        return Reply("No command was run yet.", meta={"running": 0})
    lines = [
        f"{job.id}  {_state(job)}  {size(job.output_bytes)} printed  {_first_line(job.command)}" for job in jobs[-100:]
    ]
    return Reply("\n".join(lines), meta={"running": sum(job.state == "running" for job in jobs)})


async def job_stop(call: Call, job_id: JobId) -> Reply:
    """Stop a job and everything it started: asks it to end, and kills it after 5 seconds."""
    async with call.session.working() as sandbox:
        try:
            status = await sandbox.stop(job_id)
            tail = await sandbox.output(job_id, -4000, 4000)
        except JobNotFoundError as exc:
            raise await _unknown_job(sandbox, job_id) from exc
    return Reply(f"{_text(tail.data, tail.offset)}{_line(status)}", meta=_meta(status))


async def follow(call: Call, job_id: str) -> None:
    """Wait until a job has ended, however long it takes, or the call's patience has."""
    async with call.session.working() as sandbox:
        await _wait(call, sandbox, await sandbox.wait(job_id, 0), math.inf)


async def _wait(call: Call, sandbox: Sandbox, status: JobStatus, wait_s: float) -> JobStatus:
    """Wait for a job in ticks, telling the client each time that it goes on (some give up on silence)."""
    deadline = time.monotonic() + wait_s
    while status.state == "running" and (left := deadline - time.monotonic()) > 0 and not call.patience.over:
        with call.patience.wait():
            status = await sandbox.wait(status.id, min(_TICK_S, left))
        if status.state == "running" and not call.patience.over:
            last = await sandbox.output(status.id, -400, 400)
            lines = _decode(last.data).replace("\r", "\n").strip().splitlines()
            await call.progress(
                status.seconds, None, lines[-1][:200] if lines else f"running for {status.seconds:.0f} s"
            )
    return status


async def _report(call: Call, sandbox: Sandbox, status: JobStatus, head: bytes, total: int) -> Reply:
    room = MAX_CHARS - 600
    text = _decode(head)
    if total > len(head):  # show the beginning and the end of what was printed
        tail = await sandbox.output(status.id, -room, room)
        skipped = max(0, tail.offset + len(tail.data) - room * 3 // 5 - room * 2 // 5)
        text = (
            f"{_decode(head[: room * 2 // 5])}\n[... {skipped} bytes left out; "
            f'job_output(job_id="{status.id}", offset={room * 2 // 5}) shows them ...]\n'
            f"{_decode(tail.data[-(room * 3 // 5) :])}"
        )
    else:
        text = cut(text, f'job_output(job_id="{status.id}") shows it in pieces', room)
    separator = "" if not text or text.endswith("\n") else "\n"
    return Reply(f"{text}{separator}{_line(status)}", meta=_meta(status))


async def _unknown_job(sandbox: Sandbox, job_id: str) -> MisuseError:
    jobs = await sandbox.jobs()
    known = ", ".join(job.id for job in jobs[-10:]) or "none yet"
    return MisuseError(f"There is no job {job_id[:40]!r}. Jobs of this session: {known}.")


def _decode(data: bytes) -> str:
    """Return output as text a model can read: UTF-8, progress bars' overwritten lines dropped, no terminal codes."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    if "\r" in text:
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return (
        "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
        if not text.isprintable()
        else text
    )


def _text(data: bytes, offset: int) -> str:
    text = _decode(data)
    if offset > 0:
        text = f"[the first {offset} bytes are not shown; job_output shows them]\n{text}"
    return text if not text or text.endswith("\n") else text + "\n"


def _state(status: JobStatus) -> str:
    if status.state == "running":
        return f"running for {status.seconds:.0f} s"
    if status.reason is not None:
        return f"{_REASONS.get(status.reason, status.reason)} after {status.seconds:.1f} s (exit {status.exit_code})"
    return f"exit {status.exit_code} after {status.seconds:.1f} s"


def _line(status: JobStatus) -> str:
    oom = " The kernel killed a process for lack of memory: use less." if status.oom and status.reason != "oom" else ""
    if status.state == "running":
        return (
            f"[job {status.id} is still running after {status.seconds:.0f} s and goes on by itself. "
            f'job_wait(job_id="{status.id}") waits for it, job_stop ends it.{oom}]'
        )
    return f"[{_state(status)}]{oom}"


def _meta(status: JobStatus) -> dict[str, object]:
    return {
        "job_id": status.id,
        "state": status.state,
        "exit_code": status.exit_code,
        "seconds": round(status.seconds, 3),
        "oom": status.oom,
    }


def _first_line(command: str) -> str:
    lines = command.strip().splitlines() or [""]
    return lines[0][:120] + (f" (and {plural(len(lines) - 1, 'more line')})" if len(lines) > 1 else "")


__all__ = ["follow", "job_list", "job_output", "job_stop", "job_wait", "shell"]
