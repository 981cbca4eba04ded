"""Episodes written without a server: real journals of what a test wants to have happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlgym_mcp.records.attempts import Attempt, Point, best_of
from mlgym_mcp.session.journal import FILE_NAME, Journal


def score(kind: str, value: float | None, *, higher: bool = True, baseline: float | None = 0.5) -> dict[str, Any]:
    """The record of a score, as a session journals it."""
    return {
        "kind": kind,
        "valid": value is not None,
        "primary": "accuracy",
        "higher_is_better": higher,
        "metrics": {} if value is None else {"accuracy": value},
        "se": {} if value is None else {"accuracy": 0.01},
        "baseline": baseline,
        "code": None if value is not None else "shape",
        "reason": None if value is not None else "9 rows, 10 were expected",
    }


def write_episode(
    root: Path,
    name: str,
    *,
    validations: tuple[float, ...] = (0.6,),
    submitted: float | None = 0.7,
    outcome: str | None = "scored",
    task: str = "toy",
    seed: int = 0,
    calls: int = 1,
    **metadata: Any,
) -> Path:
    """Write one episode and return its folder; an ``outcome`` of ``None`` leaves it open."""
    folder = root / name
    folder.mkdir(parents=True)
    journal = Journal(folder)
    about = {"preset": "mini", "seed": seed, "sandbox": "process", "budget": {}, "metadata": metadata}
    journal.append("session", task=task, **about)
    for i in range(calls):
        call = journal.append("call", tool="shell", arguments={"command": f"echo {i}"})
        journal.append("result", call=call.seq, seconds=0.1, text=f"{i}\n")
    for value in validations:
        journal.append("score", **score("validate", value))
    final = None
    if submitted is not None:
        final = score("submit", submitted)
        journal.append("score", **final)
    elif outcome == "invalid_submission":
        journal.append("score", **score("submit", None))
    if outcome is not None:
        journal.append("end", outcome=outcome, reason="it is over", score=final, spent={"cpu_s": 1.5})
    journal.close()
    return folder


def lines(folder: Path) -> list[bytes]:
    """The lines of an episode's journal."""
    return (folder / FILE_NAME).read_bytes().splitlines(keepends=True)


def put_lines(folder: Path, content: list[bytes]) -> None:
    """Replace an episode's journal."""
    (folder / FILE_NAME).write_bytes(b"".join(content))


def attempt(
    method: str = "a",
    submitted: float | None = 0.7,
    *,
    task: str = "toy",
    seed: int = 0,
    validations: tuple[float, ...] = (),
    higher: bool = True,
    baseline: float | None = 0.5,
    **more: Any,
) -> Attempt:
    """An attempt as it is read from an episode."""
    points = [Point(10.0 * (i + 1), "validate", value) for i, value in enumerate(validations)]
    if submitted is not None:
        points.append(Point(10.0 * (len(points) + 1), "submit", submitted))
    fields: dict[str, Any] = {
        "id": f"{task}-{method}-{seed}",
        "outcome": "scored" if submitted is not None else "budget_exhausted",
        "seconds": 60.0,
        "calls": 3,
        "metric": "accuracy",
        "preset": "mini",
        **more,
    }
    return Attempt(
        task=task,
        method=method,
        seed=seed,
        higher_is_better=higher,
        points=tuple(points),
        best=best_of((p.value for p in points), higher),
        submitted=submitted,
        baseline=baseline,
        **fields,
    )
