"""The proof of a task: what must hold before anybody's score on it means something.

Every submission goes exactly the agent's way: files into a session's workspace, commands in its sandbox, the
snapshot, the referee.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import anyio

from mlgym_mcp.catalog import Catalog, Prepared, Task
from mlgym_mcp.catalog.adversarial import VALID, Adversarial, adversarial
from mlgym_mcp.catalog.own_submissions import own_submission
from mlgym_mcp.session.errors import InfrastructureError
from mlgym_mcp.session.registry import SessionRegistry
from mlgym_mcp.session.scoring import Score
from mlgym_mcp.session.session import Session
from mlgym_mcp.session.setup import pack
from mlgym_mcp.session.solutions import Played, SolutionKind, keep_played, play_solution, scored, trial_session

_WINDOW = 48
"""Bytes of a hidden file that must not occur in a visible one."""
_HEADER = 128
"""Bytes at the beginning of a file that its format alone may decide, the same in every file."""

_SURVEY = r"""
import hashlib, json, os, sys
sizes, skip = set(json.loads(sys.argv[1])), ("/proc", "/sys", "/dev", "/usr", "/opt/env")
found = []
for folder, folders, files in os.walk("/"):
    folders[:] = [d for d in folders if os.path.join(folder, d) not in skip]
    for name in files:
        path = os.path.join(folder, name)
        try:
            if os.path.isfile(path) and os.path.getsize(path) in sizes:
                found.append([path, hashlib.sha256(open(path, "rb").read()).hexdigest()])
        except OSError:
            pass
print(json.dumps({"same_size": found, "listed": {p: os.path.exists(p) for p in json.loads(sys.argv[2])}}))
"""


_TOO_LARGE = 128 + 25
"""Exit code of a shell command killed for writing past the largest file size (SIGXFSZ)."""
_RECORDED_SDS = 4
"""Standard deviations that a new world may lie away from the recorded figure: many tasks are proved, many times."""


class _NotAllowedError(Exception):
    """The sandbox's own limits keep the attack from being set up."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: whether it holds, and what was seen."""

    what: str
    ok: bool
    detail: str
    numbers: Mapping[str, float] = field(default_factory=dict)


async def prove(
    catalog: Catalog,
    task_id: str,
    preset: str,
    *,
    sandbox: str = "auto",
    unsafe: bool = False,
    reference: bool = True,
    at_once: int = 3,
) -> AsyncIterator[Finding]:
    """Yield the findings on a task, one by one: solutions, perfect and hostile submissions, visibility.

    The baseline that was played is kept as this world's.

    Args:
        catalog: where the task is.
        task_id: which task.
        preset: its size.
        sandbox: which backend.
        unsafe: allow ``process``.
        reference: play the reference solution, too, which may take long.
        at_once: in how many sessions hostile submissions are tried.

    Raises:
        TaskError: no such task or preset.
        BackendUnavailableError: no sandbox can be had.
        InfrastructureError: a session could not be prepared.
    """
    task = catalog.get(task_id)
    task.preset(preset)
    registry = SessionRegistry(catalog, sandbox=sandbox, unsafe=unsafe)
    async with registry.run():
        async for finding in _Proof(registry, task, preset, reference=reference, at_once=at_once).findings():
            yield finding


class _Proof:
    """The sessions that one proof needs."""

    def __init__(self, registry: SessionRegistry, task: Task, preset: str, *, reference: bool, at_once: int) -> None:
        self._registry = registry
        self._task = task
        self._preset = preset
        self._with_reference = reference
        self._at_once = at_once
        self._chosen = task.preset(preset)
        self._spec = task.spec.of(preset)
        self._metric = self._spec.primary_metric
        self._sign = 1.0 if self._metric.direction == "max" else -1.0
        self._honest: dict[str, Score] = {}
        self._honest_lock = anyio.Lock()

    async def findings(self) -> AsyncIterator[Finding]:
        baseline = await self._solution("baseline")
        yield self._as_recorded("baseline", baseline, self._chosen.baseline.sd)
        if baseline.score.valid:
            keep_played(self._task, self._preset, baseline)
        if self._with_reference:
            reference = await self._solution("reference")
            yield self._as_recorded("reference", reference, self._chosen.solution.sd)
            yield self._better(baseline, reference)
        async with self._session() as session:
            good = await self._own(session, "gold")
            if good is not None:
                yield await self._gold(session, good)
            if self._spec.submission.kind != "predictions":
                good = await self._own(session, "plain")
        if good is None:
            yield Finding("its grader makes a submission", ok=False, detail="gold() or plain() returned None")
            return
        async with self._session() as session:
            yield await self._visibility(session)
        async for finding in self._hostile(adversarial(self._spec, good)):
            yield finding

    async def _hostile(self, attempts: list[Adversarial]) -> AsyncIterator[Finding]:
        """Try all attempts, in several sessions at once: much of their time is waiting for a time limit."""
        waiting = deque(attempts)
        send, receive = anyio.create_memory_object_stream[Finding](len(attempts))

        async def work() -> None:
            async with self._session() as session:
                while waiting:
                    await send.send(await self._refused(session, waiting.popleft()))

        with receive:
            async with anyio.create_task_group() as tasks:
                for _ in range(self._at_once):
                    tasks.start_soon(work)
                for _ in attempts:
                    yield await receive.receive()
        send.close()

    async def _own(self, session: Session, function: Literal["gold", "plain"]) -> dict[str, bytes] | None:
        python = session.grader_python or Path(sys.executable)
        return await own_submission(function, session.task, session.prepared, python)

    def _session(self) -> AbstractAsyncContextManager[Session]:
        return trial_session(self._registry, self._task, self._preset, "tasks check")

    async def _solution(self, kind: SolutionKind) -> Played:
        return await play_solution(self._registry, self._task, self._preset, kind)

    def _as_recorded(self, kind: SolutionKind, played: Played, sd: float | None) -> Finding:
        score = played.score
        recorded = (self._chosen.baseline if kind == "baseline" else self._chosen.solution).value(self._metric.name)
        what = f"{kind} scores as recorded"
        if not score.valid:
            return Finding(what, ok=False, detail=f"{score.code}: {score.reason}")
        value, error = score.metrics[self._metric.name], score.se.get(self._metric.name, 0.0)
        numbers = {
            "value": value,
            "se": error,
            "seconds": played.seconds,
            "cpu_s": played.cpu_s,
            "memory_mb": played.memory_mb,
            "grading_s": score.seconds,
        }
        if recorded is None:
            return Finding(what, ok=False, detail=f"{value:.4f}, but task.toml records nothing", numbers=numbers)
        spread = sd or error
        return Finding(
            what,
            ok=abs(value - recorded) <= _RECORDED_SDS * spread,
            detail=f"{value:.4f} ± {error:.4f}; recorded {recorded:.4f}, sd {spread:.4f}; {played.seconds:.1f} s, "
            f"{played.cpu_s:.1f} CPU s, {played.memory_mb:.0f} MB, graded in {score.seconds:.1f} s",
            numbers=numbers,
        )

    def _better(self, baseline: Played, reference: Played) -> Finding:
        name = self._metric.name
        if not (baseline.score.valid and reference.score.valid):
            return Finding("reference is clearly better", ok=False, detail="one of them has no score")
        gain = self._sign * (reference.score.metrics[name] - baseline.score.metrics[name])
        error = math.hypot(baseline.score.se.get(name, 0.0), reference.score.se.get(name, 0.0))
        return Finding(
            "reference is clearly better",
            ok=gain >= 5 * error and gain > 0,
            detail=f"by {gain:.4f}, which is {gain / error:.0f} standard errors" if error else f"by {gain:.4f}",
            numbers={"gain": gain, "standard_errors": gain / error if error else math.inf},
        )

    async def _gold(self, session: Session, gold: Mapping[str, bytes]) -> Finding:
        sandbox = await session.sandbox()
        await sandbox.untar(pack(gold))
        score = await scored(session, "submit")
        if not score.valid:
            return Finding("perfect submission is optimal", ok=False, detail=f"{score.code}: {score.reason}")
        value = score.metrics[self._metric.name]
        optimal = self._metric.optimal
        return Finding(
            "perfect submission is optimal",
            ok=optimal is not None and math.isclose(value, optimal, rel_tol=1e-9, abs_tol=1e-9),
            detail=f"{value:.6g}, optimal {optimal}",
        )

    async def _refused(self, session: Session, attempt: Adversarial) -> Finding:
        what = f"hostile: {attempt.name}"
        try:
            score = await self._tried(session, attempt.files, attempt.commands)
        except _NotAllowedError as exc:
            return Finding(what, ok=True, detail=f"cannot even be made in this sandbox: {exc}")
        except InfrastructureError as exc:
            return Finding(what, ok=False, detail=str(exc))
        if not score.valid:
            return Finding(what, ok=score.code in attempt.expect, detail=f"refused, {score.code}: {score.reason}")
        if VALID not in attempt.expect:
            return Finding(what, ok=False, detail=f"got a score: {score.line()}")
        honest = await self._without_the_trick(session, attempt.honest)
        same = honest.valid and honest.metrics == score.metrics
        return Finding(what, ok=same, detail=f"{score.line()}; without the trick: {honest.line()}")

    async def _without_the_trick(self, session: Session, files: Mapping[str, bytes]) -> Score:
        """Validate the honest files, once: most tricks have the same, and they score the same each time."""
        key = hashlib.sha256(pack(files)).hexdigest()
        async with self._honest_lock:
            if key not in self._honest:
                self._honest[key] = await self._tried(session, files, "")
            return self._honest[key]

    async def _tried(self, session: Session, files: Mapping[str, bytes], commands: str) -> Score:
        """Validate a workspace that holds just these files, after these commands."""
        sandbox = await session.sandbox()
        await sandbox.kill_all()
        await sandbox.run("find /workspace -mindepth 1 -delete", wait_s=30)
        await sandbox.untar(pack(files))
        if commands:
            status, output = await sandbox.run(commands, wait_s=60)
            if status.exit_code != 0:
                said = output.data[-300:].decode("utf-8", "replace").strip()
                if status.exit_code == _TOO_LARGE or "File too large" in said or "File size limit" in said:
                    raise _NotAllowedError(said or "it is too large")
                raise InfrastructureError(f"the attack could not be set up: {said}")
        return await scored(session, "validate")

    async def _visibility(self, session: Session) -> Finding:
        """Look for hidden bytes from inside: as whole files anywhere, and as pieces in what the task shows."""
        prepared = session.prepared
        hidden = await anyio.to_thread.run_sync(_hidden_files, prepared)
        places = [prepared.private, prepared.private.parent, self._registry.root, self._task.folder]
        sandbox = await session.sandbox()
        status, output = await sandbox.run(
            [
                "python",
                "-c",
                _SURVEY,
                json.dumps([len(d) for d in hidden.values()]),
                json.dumps([str(p) for p in places]),
            ],
            wait_s=120,
            output_limit=1 << 20,
        )
        if status.exit_code != 0:
            return Finding("no hidden byte is visible", ok=False, detail=f"the survey failed: {output.data[-300:]!r}")
        seen = json.loads(output.data)
        sums = {hashlib.sha256(data).hexdigest(): name for name, data in hidden.items()}
        leaks = [f"{path} is {sums[digest]}" for path, digest in seen["same_size"] if digest in sums]
        leaks += [f"{path} exists" for path, there in seen["listed"].items() if there]
        leaks += await anyio.to_thread.run_sync(_pieces, hidden, prepared.public)
        detail = "; ".join(leaks) or f"{len(hidden)} hidden files, none of them, no piece and no path of them seen"
        return Finding("no hidden byte is visible", ok=not leaks, detail=detail)


def _hidden_files(prepared: Prepared) -> dict[str, bytes]:
    return {
        path.relative_to(prepared.private).as_posix(): path.read_bytes()
        for path in sorted(prepared.private.rglob("*"))
        if path.is_file()
    }


def _pieces(hidden: Mapping[str, bytes], public: Path) -> list[str]:
    """Look for windows of hidden files in public ones. Windows of few different bytes say nothing."""
    leaks = []
    shown = {path: path.read_bytes() for path in sorted(public.rglob("*")) if path.is_file()}
    for name, data in hidden.items():
        body = data[_HEADER:] if len(data) > 2 * _HEADER else data
        step = max(_WINDOW, len(body) // 50)
        windows = [body[i : i + _WINDOW] for i in range(0, max(1, len(body) - _WINDOW), step)]
        for path, content in shown.items():
            if any(len(set(w)) > 8 and len(w) == _WINDOW and w in content for w in windows):
                leaks.append(f"a piece of {name} is in {path.name}")
    return leaks
