"""One episode as exports see it: what was said, called and answered, and what it was worth.

Only what an agent may see is in it: no hidden scores, no unrounded validations, nothing of the server's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

Outcome = Literal["ok", "error", "refused", "cancelled"]


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call with its answer.

    Attributes:
        id: unique in its trajectory.
        tool: the tool's name, as it was called.
        arguments: as they were sent; what was not kept is said in their place.
        text: the answer, as the agent read it.
        outcome: whether it was carried out.
        started: Unix time, seconds.
        seconds: how long it took; ``None`` if nobody knows.
        seq: its number in the journal; ``None`` if the server never saw it.
    """

    id: str
    tool: str
    arguments: Mapping[str, Any]
    text: str
    outcome: Outcome
    started: float
    seconds: float | None = None
    seq: int | None = None

    @property
    def arguments_json(self) -> str:
        """The arguments as one JSON text."""
        return json.dumps(self.arguments, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What an answer of a model took: tokens read (cached ones included), written, and cached."""

    read: int
    written: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """What was said to the agent."""

    role: Literal["system", "user"]
    text: str
    t: float


@dataclass(frozen=True, slots=True)
class Turn:
    """What the agent did at once: a text, calls, or both.

    Attributes:
        text: what it said.
        calls: what it called at the same time.
        t: Unix time, seconds.
        thinking: what it thought, where its model tells.
        tokens: what its model took, where that is known.
    """

    text: str
    calls: tuple[Call, ...]
    t: float
    thinking: str = ""
    tokens: Tokens | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A score as the agent was shown it: a validation is rounded."""

    kind: str
    valid: bool
    metric: str
    value: float | None
    baseline: float | None
    higher_is_better: bool
    code: str
    reason: str
    t: float


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode.

    Attributes:
        episode: its name.
        task: which task, of which version, at which preset, with which seed.
        agent: which agent, as the sweep called it; ``unknown`` if nobody said.
        model: which model, if its messages were kept.
        sweep: which sweep, and which attempt of it.
        server: the version of the server.
        started: Unix time, seconds.
        ended: of the last event.
        outcome: how it ended; ``live`` while it has not.
        reason: the same in a sentence.
        marks: its scores, oldest first.
        steps: what was said and done, in order.
        tools: the definitions of the tools that it had: name, description, parameters.
        from_messages: whether the agent's own messages are in it; otherwise only its tool calls are known.
        redacted: how many secrets were taken out.
        cut: whether only its beginning is left.
        damage: what could not be read.
    """

    episode: str
    task: str
    task_version: str
    preset: str
    seed: int
    agent: str
    model: str
    sweep: str
    attempt: str
    server: str
    started: float
    ended: float
    outcome: str
    reason: str
    marks: tuple[Mark, ...]
    steps: tuple[Said | Turn, ...]
    tools: tuple[Mapping[str, Any], ...]
    from_messages: bool
    redacted: int = 0
    cut: bool = False
    damage: str = ""

    @property
    def final(self) -> Mark | None:
        """The score of what was submitted, on the hidden test split."""
        return None if self.cut else next((m for m in self.marks if m.valid and m.kind != "validate"), None)

    @property
    def turns(self) -> Iterator[Turn]:
        """What the agent did."""
        return (step for step in self.steps if isinstance(step, Turn))

    @property
    def calls(self) -> Iterator[Call]:
        """All calls, in order."""
        return (call for turn in self.turns for call in turn.calls)

    def before(self, seq: int) -> Trajectory:
        """Return what was before the turn in which a call was made; its outcome is not known then."""
        steps: list[Said | Turn] = []
        for step in self.steps:
            if isinstance(step, Turn) and any(call.seq is not None and call.seq >= seq for call in step.calls):
                break
            steps.append(step)
        else:
            return self
        while steps and isinstance(steps[-1], Said):
            steps.pop()
        marks = tuple(mark for mark in self.marks if mark.t <= step.t)
        return replace(self, steps=tuple(steps), marks=marks, ended=step.t, cut=True, outcome="cut", reason="")

    def about(self) -> dict[str, Any]:
        """Return the facts of the episode as plain JSON, for whatever of a format is free."""
        final = self.final
        facts: dict[str, Any] = {
            "episode": self.episode,
            "task": self.task,
            "task_version": self.task_version,
            "preset": self.preset,
            "seed": self.seed,
            "agent": self.agent,
            "model": self.model,
            "sweep": self.sweep,
            "attempt": self.attempt,
            "server": self.server,
            "outcome": self.outcome,
            "score": None if final is None else final.value,
            "metric": next((mark.metric for mark in self.marks), ""),
            "baseline": next((mark.baseline for mark in self.marks), None),
            "higher_is_better": next((mark.higher_is_better for mark in self.marks), None),
            "seconds": round(self.ended - self.started, 3),
            "calls": sum(1 for _ in self.calls),
            "messages": "the agent's" if self.from_messages else "tool calls only",
            "redacted": self.redacted,
        }
        return facts | ({"cut": True} if self.cut else {}) | ({"damage": self.damage} if self.damage else {})


def iso(t: float) -> str:
    """Return a time as ISO 8601, in UTC."""
    return datetime.fromtimestamp(t, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
