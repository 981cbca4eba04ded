"""An episode as it has to be played again: what was called when, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mlgym_mcp.records.arguments import RecordError, sent_arguments
from mlgym_mcp.records.episodes import events

Kind = Literal["ok", "error", "refused", "unknown"]

NOT_READY = "it was not carried out: the session was not ready"
_NOT_READY = ("The session is still ", "The server is being restarted.")
_ASK_AGAIN = ("Call validate again", "Call submit again", "again, just like this, to get its result")
_RESTORED = frozenset({"restoring", "restored", "restore_failed"})


@dataclass(frozen=True, slots=True)
class Scored:
    """A score as it was shown.

    Attributes:
        kind: what asked for it.
        valid: whether there is one.
        value: the primary metric; of a validation as it was rounded.
        se: its standard error, if the grader knows one.
        code: why there is none, in a word.
    """

    kind: str
    valid: bool
    value: float | None = None
    se: float | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A recorded call.

    Attributes:
        seq: its number in the journal.
        tool: the tool.
        arguments: as they were sent.
        kind: how it was answered; ``unknown`` if the answer is lost.
        text: the answer.
        facts: the answer's facts for programs: job, state, exit code.
        seconds: how long it took.
        score: what was graded, for ``validate`` and ``submit``.
        counted: whether it counted against the budget of calls.
        cut_off: whether the episode ended over it.
        skipped: why it is not made again; empty if it is.
    """

    seq: int
    tool: str
    arguments: Mapping[str, Any]
    kind: Kind = "unknown"
    text: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    score: Scored | None = None
    counted: bool = False
    cut_off: bool = False
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Recording:
    """An episode.

    Attributes:
        folder: where it is.
        task: which task, of which version, at which preset, with which seed.
        budget: what it was allowed.
        sandbox: which backend it was played in.
        data: the digest of the data that it was played with; empty if it never got that far.
        steps: its calls by their number, in order.
        moments: when calls began and were answered, in order: (number, whether it began).
        outcome: how it ended; ``None`` if it has not.
        score: what it was worth in the end.
    """

    folder: Path
    task: str
    task_version: str
    preset: str
    seed: int
    budget: Mapping[str, float]
    sandbox: str
    data: str
    steps: Mapping[int, Step]
    moments: tuple[tuple[int, bool], ...]
    outcome: str | None
    score: Scored | None

    @property
    def made(self) -> list[Step]:
        """The calls that are made again."""
        return [step for step in self.steps.values() if not step.skipped]


def read_recording(folder: Path) -> Recording:
    """Read an episode.

    Raises:
        RecordError: it is damaged, or cannot be played again; the message says why.
    """
    try:
        return _Reading(folder).read()
    except RecordError:
        raise
    except Exception as exc:  # the journal's own error is the server's, which clients do not know
        raise RecordError(f"{folder}: {exc!s:.500}") from exc


class _Reading:
    """The state of one reading."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._session: Any = None
        self._steps: dict[int, Step] = {}
        self._moments: list[tuple[int, bool]] = []
        self._scores: dict[str, list[Scored]] = {"validate": [], "submit": []}
        """Graded, but not yet answered."""
        self._ending = False
        self._end: Any = None
        self._final: Scored | None = None
        self._data = ""

    def read(self) -> Recording:
        for event in events(self._folder):
            self._take(event)
        session = self._session
        if session is None:
            raise RecordError(f"{self._folder}: its first event, which says what it is, is missing")
        end = self._end
        budget = session.get("budget") or {}
        return Recording(
            folder=self._folder,
            task=str(session["task"]),
            task_version=str(session.get("task_version") or ""),
            preset=str(session["preset"]),
            seed=int(session["seed"]),
            budget={name: value for name, value in budget.items() if value is not None},
            sandbox=str(session.get("sandbox") or ""),
            data=self._data,
            steps=self._steps,
            moments=tuple(self._moments),
            outcome=None if end is None else str(end["outcome"]),
            score=self._final,
        )

    def _take(self, event: Any) -> None:
        if event.type == "session":
            self._session = event
            if event.get("parent") is not None:
                raise RecordError(f"{self._folder.name} began with a snapshot of another episode, not with its task")
        elif event.type in _RESTORED:
            raise RecordError(f"{self._folder.name} went back to a snapshot, which no tool call did")
        elif event.type == "sandbox" and event.get("state") == "started":
            self._data = str(event.get("data") or "")
        elif event.type == "call" and event.get("follows") is None:
            late = "the episode was over" if self._ending else ""
            arguments = {} if late else sent_arguments(self._folder, event["arguments"], event.seq)
            counted = event.get("counted") is True
            self._steps[event.seq] = Step(event.seq, str(event["tool"]), arguments, counted=counted, skipped=late)
            self._moments.append((event.seq, True))
        elif event.type == "result" and event["call"] in self._steps:
            step = self._steps[event["call"]]
            if not step.skipped:
                step = _answered(step, event, self._ending)
                scores = self._scores.get(step.tool)
                if step.kind == "ok" and scores:  # it was journalled before the answer
                    step = replace(step, score=scores.pop(0))
                self._steps[step.seq] = step
            self._moments.append((step.seq, False))
        elif event.type == "score":
            self._score(event)
        elif event.type == "ending":
            self._ending = True
        elif event.type == "end":
            self._ending, self._end = True, event
            if isinstance(event.get("score"), dict):
                self._final = _scored(event["score"])

    def _score(self, event: Any) -> None:
        score = _scored(event.fields)
        if score.kind in self._scores:
            self._scores[score.kind].append(score)
        if score.valid and score.kind != "validate":
            self._final = score
            self._ending = self._ending or score.kind == "submit"


def _answered(step: Step, event: Any, ending: bool) -> Step:
    facts = event.get("meta")
    facts = facts if isinstance(facts, dict) else {}
    kind: Kind = "ok"
    text, lost = event.get("text"), False
    if isinstance(refused := event.get("refused"), str):
        text, kind = refused, "refused"
    elif isinstance(error := event.get("error"), str):
        text, kind = error, "error"
    elif event.get("cancelled") or not isinstance(text, str):
        text, kind, lost = "", "unknown", True
    elif event.get("is_error"):
        kind = "error"
    elif facts.get("refused") is True:
        kind = "refused"
    seconds = event.get("seconds")
    seconds = float(seconds) if isinstance(seconds, int | float) else 0.0
    graded = step.tool == "submit" and kind == "ok"
    cut_off = ending and not graded and (kind == "refused" or lost)
    skipped = ""
    if kind == "refused" and not cut_off and text.startswith(_NOT_READY):
        skipped = NOT_READY
    elif kind == "refused" and not cut_off and any(words in text for words in _ASK_AGAIN):
        skipped = "it was asked again until there was an answer"
    return replace(
        step,
        kind=kind,
        text=text,
        facts={name: value for name, value in facts.items() if "/" not in name},
        seconds=seconds,
        cut_off=cut_off,
        skipped=skipped,
    )


def _scored(fields: Mapping[str, Any]) -> Scored:
    valid = fields.get("valid") is True
    errors = fields.get("se")
    se = errors.get(fields.get("primary")) if isinstance(errors, dict) else None
    code = fields.get("code")
    return Scored(
        kind=str(fields.get("kind")),
        valid=valid,
        value=_number(fields.get("shown")) if valid else None,
        se=_number(se) if valid else None,
        code=None if code is None else str(code),
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
