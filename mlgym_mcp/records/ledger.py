"""What a sweep wrote down of its attempts: tokens and cost, which the server cannot know.

A sweep's folder holds ``attempts.jsonl``: one JSON object for each finished attempt, of which reports read
``episode`` (the name of the episode's folder, or a path that ends with it), ``tokens_in``, ``tokens_out`` and
``cost_usd``. All other keys are the sweep's own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from mlgym_mcp.records.attempts import Attempt, Usage, finite, whole

LEDGER = "attempts.jsonl"
_LONGEST_LINE = 1 << 20


def read_ledger(path: Path) -> tuple[dict[str, Usage], str]:
    """Return the usage by episode (its last line counts), and what was wrong, if anything.

    Raises:
        OSError: it cannot be read.
    """
    usages: dict[str, Usage] = {}
    broken = 0
    with path.open("rb") as file:
        while raw := file.readline(_LONGEST_LINE):
            try:
                fields = json.loads(raw)
                episode = fields["episode"]
                name = PurePosixPath(episode).name
            except (ValueError, LookupError, TypeError, RecursionError):
                broken += bool(raw.strip())
                continue
            cost = finite(fields.get("cost_usd"))
            tokens = (_count(fields.get("tokens_in")), _count(fields.get("tokens_out")))
            usages[name] = Usage(*tokens, cost if cost is not None and cost >= 0 else None)
    return usages, f"{path}: {broken} line{'s'[: broken > 1]} could not be read" if broken else ""


def with_usage(attempts: Iterable[Attempt], usages: Mapping[str, Usage]) -> list[Attempt]:
    """Return the attempts with the tokens and cost that a ledger has of them."""
    return [dataclasses.replace(a, usage=usages[a.id]) if a.id in usages else a for a in attempts]


def _count(value: object) -> int | None:
    number = whole(value)
    return number if number is not None and number >= 0 else None
