"""Runs a task's grader in a process of its own and takes its verdict.

The process (:mod:`mlgym_mcp.grading.referee`) is started by the light environment's Python with a clean
environment, in its own session and a folder that is thrown away. It speaks with the server over one inherited
socket; what it prints is only a log. The server watches the clock, checks what comes back against the task's own
bounds, and owns the players' sandboxes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from mlgym_mcp.catalog.confined import boot
from mlgym_mcp.grading.api import Split
from mlgym_mcp.grading.errors import INVALID_CODES, GraderError
from mlgym_mcp.grading.player_host import PlayerFactory, PlayerHost, PlayerLimits, referee_package
from mlgym_mcp.grading.snapshot import Snapshot, pack_snapshot
from mlgym_mcp.grading.wire import PREFIX, WireError, decode_header, encode, header_length, payload_size
from mlgym_sandbox.sockets import ConnectedSocket

__all__ = ["GradeResult", "GradeSpec", "PlayerLimits", "Progress", "grade"]

_LIMITER: Final = CapacityLimiter(4)

LOG_BYTES: Final = 64 * 1024
"""How much of the end of a referee's output is kept."""

Progress = Callable[[float, str], Awaitable[None]]

_BOOT: Final = boot("mlgym_mcp.grading.referee")


@dataclass(frozen=True, slots=True)
class GradeSpec:
    """What of a task's ``task.toml`` a grading needs.

    Attributes:
        task: the task's id.
        preset: which preset is graded.
        params: the preset's parameters.
        entrypoint: ``module:function`` in the task's folder.
        timeout_s: longest time of one grading, players' time included.
        bounds: the metrics that must come back, all of them, with the lowest and highest possible value.
        player: time limits of players; ``None`` when the task runs none.
    """

    task: str
    preset: str
    bounds: Mapping[str, tuple[float, float]]
    params: Mapping[str, Any] = field(default_factory=dict)
    entrypoint: str = "grader:grade"
    timeout_s: float = 300.0
    player: PlayerLimits | None = None


@dataclass(frozen=True, slots=True)
class GradeResult:
    """The outcome of one grading.

    Attributes:
        valid: whether there is a score; if not, ``reason_code`` and ``reason`` say why there is none.
        metrics: the scores, unrounded.
        se: standard errors, where known.
        reason_code: as in :class:`InvalidSubmission`.
        reason: one sentence for the agent; on the test split without anything its own program said.
        public: diagnostics for the agent; on the validation split with its players' stderr.
        private: diagnostics for the journal.
        seconds: wall time of the grading.
        log: the end of what the referee printed; may hold hidden data, for the journal.
    """

    valid: bool
    metrics: Mapping[str, float]
    se: Mapping[str, float]
    reason_code: str | None
    reason: str | None
    public: Mapping[str, Any]
    private: Mapping[str, Any]
    seconds: float
    log: str


async def grade(
    folder: Path,
    spec: GradeSpec,
    split: Split,
    snapshot: Snapshot,
    public: Path,
    private: Path,
    world: bytes,
    *,
    python: str | Path,
    player_factory: PlayerFactory | None = None,
    progress: Progress | None = None,
) -> GradeResult:
    """Grade a snapshot; the one place where a task's ``grader.py`` runs.

    Args:
        folder: the task's folder, with ``grader.py``.
        spec: the facts of its ``task.toml``.
        split: ``val`` or ``test``.
        snapshot: the stored submission.
        public: the prepared public data.
        private: the prepared hidden data.
        world: the task's secret.
        python: the Python of the light environment.
        player_factory: makes a sandbox for one player; only for tasks that run players.
        progress: told the fraction done and a word about it.

    Raises:
        GraderError: no verdict: the grader crashed, hung or answered nonsense, or a sandbox could not be had.
    """
    started = time.monotonic()
    facts = {
        "task": spec.task,
        "preset": spec.preset,
        "params": dict(spec.params),
        "entrypoint": spec.entrypoint,
        "timeout_s": spec.timeout_s,
        # Players' waits end before our own patience does: a slow submission is invalid, not a grader's fault.
        "deadline": time.monotonic() + max(spec.timeout_s - 5.0, 0.8 * spec.timeout_s),
        "split": split,
        "folder": str(folder.resolve()),
        "submission": str(snapshot.path.resolve()),
        "public": str(public.resolve()),
        "private": str(private.resolve()),
        "secret": world.hex(),
        "player": None
        if spec.player is None
        else {
            "call_timeout_s": spec.player.call_timeout_s,
            "total_timeout_s": spec.player.total_timeout_s,
            "load_timeout_s": spec.player.load_timeout_s,
        },
    }
    tar = b"" if spec.player is None else await pack_snapshot(snapshot)
    log = _Tail(LOG_BYTES)
    host = PlayerHost(player_factory, spec.player, tar)
    try:
        async with _process(python, log) as (process, control), host:
            with anyio.move_on_after(spec.timeout_s) as clock:
                verdict, words = await _Conversation(control, host, progress).run(facts)
            if clock.cancelled_caught:
                raise GraderError(
                    f"the grader of {spec.task} did not finish within the {spec.timeout_s:g} seconds it has"
                )
            if verdict == "":
                raise GraderError(f"the grader of {spec.task} ended without a verdict{await _ending(process)}")
        if verdict == "error":
            message = f"the grader of {spec.task} failed: {words.get('message')}"
            raise GraderError(message, kind="infrastructure" if words.get("kind") == "infrastructure" else "grader")
        seconds = time.monotonic() - started
        if verdict == "invalid":
            return _invalid(words, split, host.stderr, seconds, log.text())
        return _valid(spec, words, split, host.stderr, seconds, log.text())
    except GraderError as error:
        error.log = log.text()
        raise


class _Tail:
    """The last bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self.complete = anyio.Event()

    async def drain(self, process: Process) -> None:
        if process.stdout is not None:
            with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
                async for piece in process.stdout:
                    self._data += piece
                    del self._data[: -self._limit]
        self.complete.set()

    def text(self) -> str:
        return self._data.decode("utf-8", "replace")


@contextlib.asynccontextmanager
async def _process(python: str | Path, log: _Tail) -> AsyncIterator[tuple[Process, ConnectedSocket]]:
    """A referee and our end of its control channel; neither it nor its folder outlives the block."""
    scratch = await to_thread.run_sync(lambda: tempfile.mkdtemp(prefix="mlgym-referee-"), limiter=_LIMITER)
    ours, theirs = socket.socketpair()
    alive_read, alive_write = os.pipe()
    try:
        ours.setblocking(False)
        control = ConnectedSocket(ours)
        async with control:
            try:
                process = await anyio.open_process(
                    [
                        str(python),
                        *("-I", "-B", "-u", "-X", "utf8", "-X", "faulthandler"),
                        *("-c", _BOOT, str(referee_package()), str(theirs.fileno()), str(alive_read)),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=scratch,
                    env=_environment(scratch),
                    start_new_session=True,
                    pass_fds=(theirs.fileno(), alive_read),
                )
            except OSError as error:
                raise GraderError(
                    f"the referee could not be started with {python}: {error}", kind="infrastructure"
                ) from error
            theirs.close()
            tasks = anyio.create_task_group()
            await tasks.__aenter__()
            tasks.start_soon(log.drain, process)
            try:
                yield process, control
            finally:
                with anyio.CancelScope(shield=True):
                    await _kill(process, log)
                tasks.cancel_scope.cancel()
                await tasks.__aexit__(None, None, None)  # the block's own error goes on as it is, in no group
    finally:
        theirs.close()
        ours.close()
        os.close(alive_read)
        os.close(alive_write)
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(lambda: shutil.rmtree(scratch, ignore_errors=True), limiter=_LIMITER)


def _environment(scratch: str) -> dict[str, str]:
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": scratch,
        "TMPDIR": scratch,
        **dict.fromkeys(threads, "1"),
    }


async def _kill(process: Process, log: _Tail) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    with anyio.move_on_after(5):
        await process.wait()
    with anyio.move_on_after(1):
        await log.complete.wait()
    with anyio.move_on_after(5):
        await process.aclose()


async def _ending(process: Process) -> str:
    with anyio.move_on_after(5):
        code = await process.wait()
        return f" (signal {-code})" if code < 0 else f" (exit code {code})"
    return ""


class _Conversation:
    """The server's half of the control channel."""

    def __init__(self, control: ConnectedSocket, host: PlayerHost, progress: Progress | None) -> None:
        self._control = control
        self._frames = BufferedByteReceiveStream(control)
        self._host = host
        self._progress = progress

    async def run(self, facts: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Serve the referee until its last word: ``score``, ``invalid``, ``error``, or "" when it just ended."""
        raw = json.dumps(facts).encode()
        try:
            await self._control.send(encode({"op": "grade"}, raw))
            while True:
                header, payload = await self._receive()
                op = header.get("op")
                if op in ("score", "invalid"):
                    return op, json.loads(payload)
                if op == "error":
                    return op, header
                await self._serve(header)
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            return "", {}
        except (WireError, ValueError) as error:
            raise GraderError(f"the referee sent something that is no frame: {error}") from error

    async def _receive(self) -> tuple[dict[str, Any], bytes]:
        length = header_length(await self._frames.receive_exactly(PREFIX.size))
        header = decode_header(await self._frames.receive_exactly(length))
        size = payload_size(header)
        return header, await self._frames.receive_exactly(size) if size else b""

    async def _serve(self, header: Mapping[str, Any]) -> None:
        op = header.get("op")
        if op == "progress":
            if self._progress is not None:
                await self._progress(float(header["fraction"]), str(header["text"]))
            return
        try:
            if op == "open":
                number, theirs = await self._host.open()
                with theirs:
                    await self._control.send_fds(encode({"ok": True, "player": number}), [theirs.fileno()])
                return
            answer: dict[str, Any] = {"ok": True}
            if op == "ending":
                answer |= await self._host.ending(int(header["player"]))
            elif op == "close":
                self._host.dismiss(int(header["player"]))
            else:
                raise GraderError(f"the referee asked for {op!r}, which is not known")
        except GraderError as error:
            answer = {"ok": False, "message": str(error), "kind": error.kind}
        await self._control.send(encode(answer))


def _invalid(words: Mapping[str, Any], split: Split, stderr: list[str], seconds: float, log: str) -> GradeResult:
    code, sentence, detail = (str(words.get(key, "")) for key in ("code", "sentence", "detail"))
    if code not in INVALID_CODES:
        raise GraderError(f"the referee gave the unknown reason {code!r}")
    told = split == "val"
    return GradeResult(
        valid=False,
        metrics={},
        se={},
        reason_code=code,
        reason=f"{sentence}: {detail}" if detail and told else sentence,
        public={"player_stderr": stderr} if told and stderr else {},
        private={"detail": detail, "player_stderr": stderr},
        seconds=seconds,
        log=log,
    )


def _valid(
    spec: GradeSpec, words: Mapping[str, Any], split: Split, stderr: list[str], seconds: float, log: str
) -> GradeResult:
    metrics: dict[str, float] = words["metrics"]
    if set(metrics) != set(spec.bounds):
        raise GraderError(
            f"the grader of {spec.task} gave the metrics {', '.join(sorted(metrics))}; "
            f"its task.toml names {', '.join(sorted(spec.bounds))}"
        )
    for name, value in metrics.items():
        low, high = spec.bounds[name]
        if not (math.isfinite(value) and low <= value <= high):
            raise GraderError(
                f"the grader of {spec.task} gave {name} = {value!r}; its task.toml allows {low:g} to {high:g}"
            )
    shown = {"player_stderr": stderr} if split == "val" and stderr else {}
    return GradeResult(
        valid=True,
        metrics=metrics,
        se=words["se"],
        reason_code=None,
        reason=None,
        public={**words["public"], **shown},
        private={**words["private"], **({"player_stderr": stderr} if stderr else {})},
        seconds=seconds,
        log=log,
    )
