"""Submissions that must not get a score they did not earn: for ``tasks check`` and for tests.

They are made as an agent would make them: files written to the workspace, and shell commands for what is not a
regular file. Each says with which codes it may be refused, or that it is accepted and must score exactly what the
same behaviour without the trick scores (:attr:`Adversarial.honest`).
"""

from __future__ import annotations

from collections.abc import Mapping

from mlgym_mcp.catalog.adversarial.case import VALID, Adversarial
from mlgym_mcp.catalog.adversarial.files import files
from mlgym_mcp.catalog.adversarial.players import players
from mlgym_mcp.catalog.adversarial.predictions import predictions
from mlgym_mcp.catalog.adversarial.texts import texts
from mlgym_mcp.catalog.adversarial.weights import weights
from mlgym_mcp.catalog.spec import TaskSpec

__all__ = ["VALID", "Adversarial", "adversarial"]


def adversarial(spec: TaskSpec, good: Mapping[str, bytes]) -> list[Adversarial]:
    """Return the submissions that fit a task.

    Args:
        spec: the task's.
        good: a submission that is valid: the perfect one for predictions, else a plain one, which is spoilt.
    """
    rules = spec.submission
    name = rules.entry or rules.path or rules.include[0]
    if rules.kind == "player":
        made = players(spec, good)
    elif rules.kind == "weights":
        made = weights(rules, name, good[name])
    elif rules.format == "jsonl":
        made = texts(rules, name, good[name])
    else:
        made = predictions(rules, name, good[name])
    return [*made, *files(rules, name)]
