"""The words between a sweep and whoever plays its attempts. All of it can be pickled: it travels to other machines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_LONGEST_KEY = 200


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a sweep: what is played once, and counts once."""

    task: str
    preset: str
    agent: str
    seed: int

    @property
    def id(self) -> str:
        """Its name within the sweep: the same each time the sweep is run."""
        return f"{self.task}.{self.preset}.{self.agent}.{self.seed}"


@dataclass(frozen=True, slots=True)
class Needs:
    """What an attempt takes of a machine.

    Attributes:
        cpus: of its sandbox.
        memory_mb: of its sandbox, MiB.
        gpus: whole ones.
    """

    cpus: float = 1.0
    memory_mb: int = 512
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Order:
    """An attempt that is to be played now.

    Attributes:
        attempt: which.
        number: which try of it, from 1.
        sweep: the sweep's id, unlike that of any other sweep.
        budget: limits in place of the preset's own.
        sandbox: which, if not the server's own choice.
        needs: what it takes.
        earlier: session of a try that was lost: if it turns out to have finished, its result is the attempt's.
    """

    attempt: Attempt
    number: int
    sweep: str
    budget: Mapping[str, int | float] = field(default_factory=dict)
    sandbox: str | None = None
    needs: Needs = Needs()
    earlier: str | None = None

    @property
    def key(self) -> str:
        """The idempotency key: of one try there is one session, however often it is asked for."""
        words = f"{self.sweep}:{self.attempt.id}#{self.number}"
        return words if len(words) <= _LONGEST_KEY else hashlib.sha256(words.encode()).hexdigest()

    @property
    def metadata(self) -> dict[str, Any]:
        """What the episode keeps: reports know by it whose it is."""
        return {
            "agent": self.attempt.agent,
            "sweep": self.sweep,
            "attempt": self.attempt.id,
            "try": self.number,
        }


@dataclass(frozen=True, slots=True)
class Opened:
    """News: a try has its session."""

    session: str
    episode: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class Called:
    """News: a tool call of the agent's was answered."""

    tool: str
    calls: int


News = Opened | Called


@dataclass(frozen=True, slots=True)
class Finished:
    """An attempt's result, whatever it is worth.

    Attributes:
        session: whose result it is; an earlier try's if that one had finished after all.
        episode: its record.
        facts: what goes into the line of ``attempts.jsonl``.
        files: what whoever runs the sweep cannot reach where it lies, by name: the journal, the messages.
    """

    session: str
    episode: str
    facts: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lost:
    """A try that says nothing of the agent: a server, an engine, a node or a model's endpoint failed.

    Attributes:
        reason: what happened, in a sentence.
        permanent: whether to try again is of no use.
        agent_only: whether nothing but this agent is concerned: its endpoint refuses it.
        spent: tokens and cost that were spent in vain.
    """

    reason: str
    permanent: bool = False
    agent_only: bool = False
    spent: Mapping[str, Any] = field(default_factory=dict)


Verdict = Finished | Lost
