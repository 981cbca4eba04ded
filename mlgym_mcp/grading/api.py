"""What a task's grader is given: the context, the score it returns, how to refuse. Standard library only.

A grader is a function ``grade(ctx: GradeContext) -> Score`` in the task's ``grader.py``. It runs in a process
of its own (the referee) that alone holds the hidden data; what the agent made reaches it as a checked copy of
files (``ctx.submission``), as strictly parsed predictions (:meth:`GradeContext.predictions`,
:meth:`GradeContext.texts`), or through a player (:meth:`GradeContext.player`), and in no other way. It must
never import, unpickle or execute anything of the agent's.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, overload

from mlgym_mcp.grading.errors import GraderError, InvalidSubmission
from mlgym_mcp.grading.players import Ending, Player
from mlgym_mcp.grading.strict import (
    is_plain_name,
    read_classes,
    read_numbers,
    read_texts,
    read_weights,
    require_file,
)

__all__ = ["Ending", "GradeContext", "GraderError", "InvalidSubmission", "Player", "Score", "Split"]

Split = Literal["val", "test"]


@dataclass(frozen=True, slots=True)
class Score:
    """What a grader found out.

    Attributes:
        metrics: every metric of the task's ``task.toml``, finite.
        se: standard errors of (some of) the metrics, finite, not negative.
        public: JSON shown to the agent by ``validate``: diagnostics that reveal nothing hidden.
        private: JSON for the journal only.

    Raises:
        ValueError: a metric or a standard error that is no such number, or something JSON cannot hold.
    """

    metrics: Mapping[str, float]
    se: Mapping[str, float] = field(default_factory=dict)
    public: Mapping[str, Any] = field(default_factory=dict)
    private: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError("a score needs at least one metric")
        for kind, values in (("metric", self.metrics), ("standard error", self.se)):
            for name, value in values.items():
                if not math.isfinite(value):
                    raise ValueError(f"{kind} {name!r} must be a finite number, got {value!r}")
        for name, value in self.se.items():
            if name not in self.metrics or value < 0:
                raise ValueError(f"standard error {name!r} must be of a metric and not below 0, got {value!r}")
        json.dumps([self.public, self.private], allow_nan=False)

    def as_json(self) -> dict[str, Any]:
        """The score as plain JSON values (numpy numbers become floats)."""
        return {
            "metrics": {name: float(value) for name, value in self.metrics.items()},
            "se": {name: float(value) for name, value in self.se.items()},
            "public": dict(self.public),
            "private": dict(self.private),
        }


class OpenPlayer(Protocol):
    """How a context gets a player: the referee asks the server for one."""

    def __call__(self, entry: str, role: str, facts: Mapping[str, Any]) -> Player:
        """Start the submission's ``entry`` in a fresh sandbox and say hello."""


def _no_player(entry: str, role: str, facts: Mapping[str, Any]) -> Player:
    raise GraderError(f"this task has no [grader] player limits, so {entry} cannot be run as {role}")


@dataclass(frozen=True)
class GradeContext:
    """One grading: what is graded, against what, and the only ways to read it.

    Attributes:
        task: the task's id.
        preset: ``mini`` or ``full``.
        params: the preset's parameters from ``task.toml``.
        split: ``val`` (validate) or ``test`` (submit): which hidden data to use.
        deadline: ``time.monotonic()`` seconds at which the grading is cut off.
        submission: the server's own copy of the submission: regular files with checked names.
        public_folder: the prepared public data.
        private_folder: the prepared hidden data (the vault).
        secret: the task's secret world; use :meth:`rng` and :meth:`seed`.
    """

    task: str
    preset: str
    params: dict[str, Any]
    split: Split
    submission: Path
    public_folder: Path
    private_folder: Path
    secret: bytes = field(repr=False)
    deadline: float = field(default_factory=lambda: time.monotonic() + 300.0)
    open_player: OpenPlayer = _no_player
    report: Callable[[float, str], None] = lambda _fraction, _text: None

    def private(self, name: str) -> Path:
        """The path of a file or folder in the hidden data.

        Raises:
            GraderError: there is none: the task's data is not prepared as its grader expects.
        """
        return _inside(self.private_folder, name, "private")

    def public(self, name: str) -> Path:
        """The path of a file or folder in the public data; raises as :meth:`private`."""
        return _inside(self.public_folder, name, "public")

    def seed(self, name: str) -> int:
        """A 64-bit seed from the secret world, the preset, the split and ``name``.

        The agent cannot know it; it is the same for every grading of a split, so scores are paired.
        """
        words = json.dumps(["grade", self.task, self.preset, self.split, name]).encode()
        return int.from_bytes(hmac.digest(self.secret, words, hashlib.sha256)[:8], "little")

    def rng(self, name: str) -> random.Random:
        """A generator seeded by :meth:`seed`; the player's process cannot reach it."""
        return random.Random(self.seed(name))

    def progress(self, fraction: float, text: str = "") -> None:
        """Tell the server how far the grading is, from 0 to 1."""
        self.report(min(1.0, max(0.0, float(fraction))), text)

    @overload
    def predictions(
        self,
        path: str,
        *,
        header: tuple[str, str] = ...,
        ids: Sequence[int],
        kind: Literal["class"] = ...,
        classes: int = ...,
    ) -> list[int]: ...
    @overload
    def predictions(
        self,
        path: str,
        *,
        header: tuple[str, str] = ...,
        ids: Sequence[int],
        kind: Literal["number"],
        low: float = ...,
        high: float = ...,
    ) -> list[float]: ...
    def predictions(
        self,
        path: str,
        *,
        header: tuple[str, str] = ("id", "label"),
        ids: Sequence[int],
        kind: Literal["class", "number"] = "class",
        classes: int = 10,
        low: float = -1e300,
        high: float = 1e300,
    ) -> list[int] | list[float]:
        """Read a predictions CSV of the submission, strictly; the values in the order of ``ids``.

        Args:
            path: where in the submission.
            header: the two column names, exactly.
            ids: all ids that must occur, each once, in any order.
            kind: ``class``: integers in ``range(classes)``; ``number``: decimals in ``[low, high]``.
            classes: how many classes there are.
            low: the smallest number allowed.
            high: the largest number allowed.

        Raises:
            InvalidSubmission: ``missing``, ``format``, ``range``, ``too_large`` or ``forbidden``.
        """
        if kind == "class":
            return read_classes(self.submission, path, header=header, ids=ids, classes=classes)
        return read_numbers(self.submission, path, header=header, ids=ids, low=low, high=high)

    def texts(self, path: str, *, ids: Sequence[int], max_chars: int = 512, max_words: int = 64) -> list[str]:
        """Read JSON lines ``{"id": int, "text": str}`` of the submission; the texts in the order of ``ids``.

        Raises:
            InvalidSubmission: as :meth:`predictions`.
        """
        return read_texts(self.submission, path, ids=ids, max_chars=max_chars, max_words=max_words)

    def weights(self, path: str, *, shape: Sequence[int], low: float = -1e6, high: float = 1e6) -> list[Any]:
        """Read a JSON file of numbers of the submission: nested lists of exactly ``shape``, each in ``[low, high]``.

        Raises:
            InvalidSubmission: as :meth:`predictions`.
        """
        return read_weights(self.submission, path, shape=shape, low=low, high=high)

    def player(self, entry: str = "strategy.py", role: str = "matches", **hello: Any) -> Player:
        """Run a program of the submission in a fresh, locked-down sandbox; a context manager.

        Args:
            entry: the Python file in the submission.
            role: ``matches`` (``move(history)``), ``policy`` (``make_policy(folder, index)``; hello needs
                ``obs``, ``act`` and ``n``), ``arrays`` (methods of what ``make``, a function of hello, returns for
                the folder), ``branching`` (``choose(state)``) or ``call`` (any function, JSON in and out).
            hello: facts of the role, told to the player at once.

        Raises:
            InvalidSubmission: no such file, or the program could not be loaded in time.
        """
        if not is_plain_name(entry) or not entry.endswith(".py"):
            raise GraderError(f"a player's entry must be a relative path to a .py file, got {entry!r}")
        require_file(self.submission, entry)
        return self.open_player(entry, role, hello)


def _inside(folder: Path, name: str, kind: str) -> Path:
    if not is_plain_name(name):
        raise GraderError(f"{kind} data name {name!r} must be a relative path without '..'")
    path = folder / name
    if not path.exists():
        raise GraderError(f"the {kind} data has no {name!r}: prepare the task's data again")
    return path
