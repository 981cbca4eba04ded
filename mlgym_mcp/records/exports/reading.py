"""Episodes read as trajectories: from the journal, and from the agent's own messages where they were kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlgym_mcp.records.arguments import sent_arguments
from mlgym_mcp.records.attempts import UNKNOWN, finite, plain_name, plain_reason, whole
from mlgym_mcp.records.exports.messages import Heard, read_messages
from mlgym_mcp.records.exports.redaction import Redactor
from mlgym_mcp.records.exports.trajectory import Call, Mark, Outcome, Said, Trajectory, Turn
from mlgym_mcp.records.salvage import Damage, Line, salvage

_WANTED = frozenset({"session", "call", "result", "score", "end"})
_TASK = "Attempt the machine-learning task {task} (preset {preset}) with the tools that you have."
"""What stands for the request where the agent's messages were not kept."""
_FAILED = "The call failed in the server."
_NO_ANSWER = "(There was no answer.)"


@dataclass(slots=True)
class _Journal:
    """What a journal tells."""

    session: Mapping[str, Any] = field(default_factory=dict)
    calls: dict[int, Call] = field(default_factory=dict)
    answered: dict[int, float] = field(default_factory=dict)
    """When a call was answered."""
    marks: list[Mark] = field(default_factory=list)
    started: float = 0.0
    ended: float = 0.0
    outcome: str = "live"
    reason: str = ""
    damage: str = ""


def read_trajectory(
    folder: Path,
    redactor: Redactor,
    *,
    messages: Path | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> Trajectory:
    """Read one episode; what is damaged is told in ``damage``, the rest is used.

    Args:
        folder: the episode.
        redactor: takes out secrets.
        messages: the agent's own, if they were kept.
        tools: what stands for the tools' definitions where the messages do not have them.

    Raises:
        OSError: the journal cannot be read.
        ValueError: it does not say which task was played.
    """
    journal = _read(folder)
    session = journal.session
    if not plain_name(session.get("task")):
        raise ValueError("its first line, which says what it is, is lost")
    own = redactor.with_digests(_digests(session))
    told = [journal.damage] if journal.damage else []
    heard: Heard | None = None
    if messages is not None:
        heard = read_messages(messages)
        told += [heard.damage] if heard.damage else []
    metadata = session.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    steps: Sequence[Said | Turn]
    if heard is not None and heard.steps:
        steps = _timed(heard.steps, list(journal.calls.values()))
    else:
        heard = None
        request = _TASK.format(task=plain_name(session.get("task")), preset=plain_name(session.get("preset")))
        steps = [Said("user", request, journal.started), *_turns(journal)]
    steps = [_clean(step, own) for step in steps]
    reason = own.text(journal.reason)
    names = [plain_name(own.text(str(metadata.get(key) or ""))) for key in ("agent", "sweep", "attempt")]
    return Trajectory(
        episode=own.text(folder.name),
        task=plain_name(session.get("task")),
        task_version=plain_name(session.get("task_version")),
        preset=plain_name(session.get("preset")),
        seed=whole(session.get("seed")) or 0,
        agent=names[0] or UNKNOWN,
        model="" if heard is None else own.text(heard.model),
        sweep=names[1],
        attempt=names[2],
        server=plain_name(session.get("server")),
        started=journal.started,
        ended=journal.ended,
        outcome=journal.outcome,
        reason=reason,
        marks=tuple(replace(m, reason=own.text(m.reason)) for m in journal.marks),
        steps=tuple(steps),
        tools=tuple(own.value(tool) for tool in ((heard.tools if heard is not None else ()) or tools)),
        from_messages=heard is not None,
        redacted=own.found,
        damage="; ".join(told),
    )


def _digests(session: Mapping[str, Any]) -> list[str]:
    digests = session.get("digests")
    return [str(value) for value in digests.values()] if isinstance(digests, Mapping) else []


def _read(folder: Path) -> _Journal:
    journal, damage = _Journal(), Damage()
    follows: dict[int, int] = {}
    first = True
    for line in salvage(folder, _WANTED, damage):
        if first:
            journal.started, first = line.t, False
        journal.ended = line.t
        fields = line.fields
        if line.type == "session":
            journal.session = fields
        elif line.type == "call":
            of = whole(fields.get("of"))
            if fields.get("follows") is None:
                journal.calls[line.seq] = _call(folder, line)
            elif of is not None:
                follows[line.seq] = of
        elif line.type == "result":
            seq = whole(fields.get("call"))
            seq = -1 if seq is None else follows.get(seq, seq)
            if (call := journal.calls.get(seq)) is not None:
                journal.calls[seq] = _answered(call, line)
                journal.answered[seq] = line.t
        elif line.type == "score":
            journal.marks.append(_mark(line))
        elif line.type == "end":
            journal.outcome = plain_name(fields.get("outcome"), 40) or "ended"
            journal.reason = plain_reason(fields.get("reason"))
            end = fields.get("score")
            if isinstance(end, Mapping) and not any(m.valid and m.kind != "validate" for m in journal.marks):
                journal.marks.append(_mark(Line(line.seq, line.t, "score", dict(end))))
    journal.damage = str(damage)
    return journal


def _call(folder: Path, line: Line) -> Call:
    kept = line.fields.get("arguments")
    arguments: dict[str, Any] = {}
    for name, value in (kept if isinstance(kept, Mapping) else {}).items():
        try:
            arguments |= sent_arguments(folder, {name: value}, line.seq)
        except (ValueError, OSError, RecursionError):
            size = value.get("chars") if isinstance(value, Mapping) else None
            arguments[name] = f"[{whole(size) or 'some'} characters that were not kept]"
    tool = plain_name(line.fields.get("tool"))
    return Call(f"call_{line.seq}", tool, arguments, _NO_ANSWER, "cancelled", line.t, None, line.seq)


def _answered(call: Call, line: Line) -> Call:
    """Return a call with its answer: what the agent read, never what the server alone knows."""
    fields = line.fields
    meta = fields.get("meta")
    outcome: Outcome = "ok"
    text = fields.get("text")
    if isinstance(refused := fields.get("refused"), str):
        outcome, text = "refused", refused
    elif fields.get("error") is not None:
        outcome, text = "error", _FAILED
    elif fields.get("cancelled") or not isinstance(text, str):
        outcome, text = "cancelled", _NO_ANSWER
    elif fields.get("is_error"):
        outcome = "error"
    elif isinstance(meta, Mapping) and meta.get("refused") is True:
        outcome = "refused"
    return replace(call, text=text, outcome=outcome, seconds=finite(fields.get("seconds")))


def _mark(line: Line) -> Mark:
    """Return a score as it was shown, never at full precision."""
    fields = line.fields
    valid = fields.get("valid") is True
    value = finite(fields.get("shown")) if valid else None
    metrics = fields.get("metrics")
    if valid and value is None and fields.get("kind") != "validate" and isinstance(metrics, Mapping):
        value = finite(metrics.get(fields.get("primary")))  # only validations are rounded
    return Mark(
        kind=plain_name(fields.get("kind"), 20),
        valid=valid,
        metric=plain_name(fields.get("primary")),
        value=value,
        baseline=finite(fields.get("baseline")),
        higher_is_better=fields.get("higher_is_better") is not False,
        code="" if valid else plain_name(fields.get("code"), 40),
        reason="" if valid else plain_reason(fields.get("reason")),
        t=line.t,
    )


def _turns(journal: _Journal) -> list[Turn]:
    """Return the calls as turns: what was in flight together was called together."""
    turns: list[list[Call]] = []
    for seq, call in journal.calls.items():
        open_still = turns and any(journal.answered.get(c.seq or 0, -1.0) > call.started for c in turns[-1])
        if open_still:
            turns[-1].append(journal.calls[seq])
        else:
            turns.append([journal.calls[seq]])
    return [Turn("", tuple(calls), calls[0].started) for calls in turns]


def _timed(steps: Iterable[Said | Turn], recorded: list[Call]) -> list[Said | Turn]:
    """Return the agent's steps with what the journal knows of their calls: numbers and times."""
    place = 0
    timed: list[Said | Turn] = []
    for step in steps:
        if isinstance(step, Turn):
            calls = []
            for call in step.calls:
                match = next((i for i in range(place, len(recorded)) if _same(recorded[i], call)), None)
                if match is not None:
                    while match + 1 < len(recorded) and _asked_again(recorded[match], recorded[match + 1]):
                        match += 1
                    place, found = match + 1, recorded[match]
                    outcome = found.outcome if call.outcome == "ok" else call.outcome
                    call = replace(call, seq=found.seq, started=found.started, seconds=found.seconds, outcome=outcome)
                calls.append(call)
            step = replace(step, calls=tuple(calls))
        timed.append(step)
    return timed


def _same(recorded: Call, call: Call) -> bool:
    graded = call.tool in ("validate", "submit")  # they take nothing, whatever a model passes
    return recorded.tool == call.tool and (graded or dict(recorded.arguments) == dict(call.arguments))


def _asked_again(call: Call, after: Call) -> bool:
    """Whether a call only repeats one that was not ready: agents do so without telling their model."""
    return call.outcome == "refused" and after.tool == call.tool and after.arguments == call.arguments


def _clean(step: Said | Turn, redactor: Redactor) -> Said | Turn:
    if isinstance(step, Said):
        return replace(step, text=redactor.text(step.text))
    calls = tuple(
        replace(
            call,
            id=redactor.text(call.id),
            tool=redactor.text(call.tool),
            arguments=redactor.value(dict(call.arguments)),
            text=redactor.text(call.text),
        )
        for call in step.calls
    )
    return replace(step, text=redactor.text(step.text), thinking=redactor.text(step.thinking), calls=calls)
