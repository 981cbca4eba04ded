"""The published figures of MLGym-Bench, as attempts like any others. See README.md beside this file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

from mlgym_mcp.records.attempts import Attempt
from mlgym_mcp.records.profiles import BASELINE

PRESET = "paper"
LEFT_OUT = ("gemini-20-pro",)
"""Models that are among the runs but not in the published tables."""

KNOWN_WRONG = tuple(
    """\
Captioning 0.473 is the mean of random numbers that the run wrote as its own metric.
Blotto 0.576 was played against an opponent that the run had overwritten by accident.
The Mountain Car scores of about -3e13 come from an action cost without a limit; its evaluator stopped at 200 steps.
The "BLEU" of captioning is a score of characters against one caption.
Fashion-MNIST's baseline gives 0.848 when run again, not 0.783.
3-SAT mixes the times of two evaluators.
Prisoner's Dilemma and Battle of Sexes are saturated (optimum 2.6251 and 1.44): the order of the best models is noise.
Validation scored the test set, any number of times.
Test labels or evaluators were in the agent's container in most tasks.
""".splitlines()
)

AUP_CAVEATS = tuple(
    """\
Failing costs 5 % of the worst feasible ratio: o3-mini, without a score on 8 of 13 tasks, keeps 81 % of the highest.
Values depend on which methods are compared, and one task with a large ratio sets the range for all (Blotto).
Ratios of scores near zero or below mean nothing; the baseline itself is infeasible on Blotto.
Best and last share one range but not their reference scores, so the AUP of last can exceed that of best.
It takes the maximum over runs and has no interval. The interquartile mean beside it has one.
""".splitlines()
)


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the paper's baseline reaches at a task."""

    task: str
    metric: str
    higher_is_better: bool
    value: float


@cache
def baselines() -> dict[str, Baseline]:
    """Return the paper's baselines by task."""
    return {
        row["task"]: Baseline(row["task"], row["metric"], row["direction"] == "max", float(row["baseline"]))
        for row in _rows("baselines.csv")
    }


@cache
def aup_as_printed() -> dict[str, dict[str, float]]:
    """Return the published AUP table: by variant (``best``, ``last``) and model."""
    rows = list(_rows("aup.csv"))
    names = {row["model"]: BASELINE if row["model"] == "baseline" else row["model"] for row in rows}
    return {variant: {names[row["model"]]: float(row[variant]) for row in rows} for variant in ("best", "last")}


@cache
def published_attempts() -> tuple[Attempt, ...]:
    """Return the published runs of the models that are in the published tables."""
    known = baselines()
    attempts = []
    for row in _rows("attempts.csv"):
        if row["model"] in LEFT_OUT:
            continue
        baseline = known[row["task"]]
        best, last = _score(row["best_attempt"]), _score(row["last_score"])
        attempts.append(
            Attempt(
                id=f"{row['task']}-{row['model']}-{row['run']}",
                task=row["task"],
                preset=PRESET,
                method=row["model"],
                seed=int(row["run"]),
                metric=baseline.metric,
                higher_is_better=baseline.higher_is_better,
                best=best,
                submitted=last,
                baseline=baseline.value,
                outcome="no score" if last is None else "scored",
            )
        )
    return tuple(attempts)


def _score(text: str) -> float | None:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None


def _rows(name: str) -> Iterator[dict[str, str]]:
    text = (resources.files(__name__) / name).read_text(encoding="utf-8")
    yield from csv.DictReader(text.splitlines())
