"""An episode's journal as a person reads it: calls with their results, scores, snapshots, the end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlgym_mcp.records.attempts import finite, whole
from mlgym_mcp.records.salvage import Damage, Line, salvage
from mlgym_mcp.web.text import Shown, folded, one_line, visible

PAGE = 100
"""Entries on one page."""
TYPES = frozenset(
    {
        "session",
        "sandbox",
        "call",
        "result",
        "score",
        "grader_error",
        "snapshot",
        "restoring",
        "restored",
        "restore_failed",
        "forked",
        "adopted",
        "detached",
        "ending",
        "end",
    }
)
_MOST_CHARS = 200_000
"""Of one text on a page."""
_SHORT = 120
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NOT_SHOWN = frozenset({"digests", "private", "token", "key", "sum", "host"})


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a call, or a field of an event.

    Attributes:
        name: which.
        word: its value, if that is short.
        text: its value, if that is long.
        blob: digest of the file that holds it, if it was too long for the journal.
    """

    name: str
    word: str = ""
    text: Shown | None = None
    blob: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What a call gave.

    Attributes:
        state: ``ok``, ``error``, ``refused`` or ``cancelled``.
        seconds: how long it took.
        text: what the agent read.
        facts: short facts beside it, such as the exit code.
    """

    state: str
    seconds: float | None
    text: Shown
    facts: tuple[str, ...] = ()


@dataclass(slots=True)
class Entry:
    """One line of the timeline.

    Attributes:
        seq: the event's number in the journal.
        at: seconds since the episode began.
        kind: ``call``, ``score``, or the type of any other event.
        title: the tool, or what happened.
        arguments: of a call; the fields of any other event.
        result: of a call, once there is one.
        job: the job that the call is about.
        lasting: whether the call may still be running: nothing says how it ended.
        good: of a score, whether it is valid.
    """

    seq: int
    at: float
    kind: str
    title: str
    arguments: tuple[Argument, ...] = ()
    result: Result | None = None
    job: str = ""
    lasting: bool = False
    good: bool = True


@dataclass(slots=True)
class Timeline:
    """Some entries of an episode.

    Attributes:
        entries: those of this page.
        count: how many there are in all.
        last: the number of the last event that was read.
        facts: what the first event says.
        damage: what could not be read.
        ended: whether the end was journalled.
    """

    entries: list[Entry] = field(default_factory=list)
    count: int = 0
    last: int = -1
    facts: tuple[Argument, ...] = ()
    damage: str = ""
    ended: bool = False


class Reader:
    """Turns the lines of one journal into entries, in order."""

    def __init__(self) -> None:
        self.begin: float | None = None
        self._open: dict[int, Entry] = {}

    def take(self, line: Line) -> Entry | None:
        """Return the entry that a line makes, or changes: a result changes that of its call."""
        if self.begin is None:
            self.begin = line.t
        at = line.t - self.begin
        if line.type == "result":
            entry = self._open.pop(whole(line.fields.get("call")) or 0, None)
            if entry is not None:
                _answer(entry, line.fields)
            return entry
        if line.type == "call":
            entry = _call(line, at)
            self._open[line.seq] = entry
            return entry
        if line.type == "score":
            return _score(line, at)
        if line.type == "end":
            for entry in self._open.values():
                entry.lasting = False
            self._open.clear()
        return Entry(line.seq, at, line.type, _title(line), _arguments(_told(line)))


def read_timeline(folder: Path, first: int, most: int = PAGE) -> Timeline:
    """Read some entries of an episode, from the ``first`` on (from 0).

    Raises:
        OSError: the journal cannot be read.
    """
    damage = Damage()
    found = Timeline()
    for line, entry in entries(folder, damage):
        found.last = line.seq
        if line.type == "session":
            found.facts = _arguments(_told(line))
        found.ended = found.ended or line.type == "end"
        if line.type != "result":
            if entry is not None and first <= found.count < first + most:
                found.entries.append(entry)
            found.count += 1
    found.damage = str(damage)
    return found


def entries(folder: Path, damage: Damage) -> Iterator[tuple[Line, Entry | None]]:
    """Yield each whole line of a journal with the entry that it makes or changes.

    Raises:
        OSError: the journal cannot be read.
    """
    reader = Reader()
    for line in salvage(folder, TYPES, damage):
        yield line, reader.take(line)


def scored_snapshots(folder: Path) -> dict[str, list[str]]:
    """Return what the snapshots that were graded got, by their digests.

    Raises:
        OSError: the journal cannot be read.
    """
    found: dict[str, list[str]] = {}
    begin: float | None = None
    for line in salvage(folder, ("score",), Damage()):
        begin = line.t if begin is None else begin
        digest = line.fields.get("snapshot")
        if line.type == "score" and isinstance(digest, str):
            entry = _score(line, line.t - begin)
            first = entry.arguments[0] if entry.arguments else Argument("", "")
            words = f"{entry.title} at {entry.at:.0f} s: {first.name} {first.word}"
            found.setdefault(digest, []).append(words)
    return found


def _call(line: Line, at: float) -> Entry:
    fields = line.fields
    arguments = fields.get("arguments")
    if isinstance(arguments, dict) and set(arguments) == {"$all"}:
        arguments = {"all arguments": arguments["$all"]}
    told = arguments if isinstance(arguments, dict) else {}
    job = told.get("job_id")
    title = one_line(fields.get("tool", "?"), 60)
    return Entry(
        line.seq,
        at,
        "call",
        title,
        _arguments(told),
        job=_job(job),
        lasting=True,
    )


def _answer(entry: Entry, fields: Mapping[str, Any]) -> None:
    if fields.get("cancelled"):
        state, text = "cancelled", fields.get("text") or ""
    elif "refused" in fields:
        state, text = "refused", fields["refused"]
    elif fields.get("error") is not None:
        state, text = "error", fields["error"]
    else:
        state, text = "error" if fields.get("is_error") else "ok", fields.get("text")
    if not isinstance(text, str):
        text = "" if text is None else _json(text)
    meta = fields.get("meta")
    facts = []
    if isinstance(meta, dict):
        entry.job = _job(meta.get("job_id")) or entry.job
        facts = [
            f"{name.replace('_', ' ')} {one_line(meta[name], 40)}"
            for name in ("job_id", "state", "exit_code")
            if meta.get(name) is not None and not (name == "state" and meta[name] == "exited")
        ]
    entry.result = Result(state, finite(fields.get("seconds")), folded(_bounded(text)), tuple(facts))
    entry.lasting = False


def _score(line: Line, at: float) -> Entry:
    fields = line.fields
    kind = one_line(fields.get("kind", "?"), 20)
    metrics, errors, primary = fields.get("metrics"), fields.get("se"), fields.get("primary")
    arguments = []
    if fields.get("valid") is True and isinstance(metrics, dict):
        for name in sorted(metrics, key=lambda m: (m != primary, str(m)))[:40]:
            value, error = finite(metrics[name]), finite(errors.get(name)) if isinstance(errors, dict) else None
            word = "?" if value is None else f"{value:.6g}" + ("" if error is None else f" ± {error:.2g}")
            arguments.append(Argument(one_line(name, 60), word))
        if (baseline := finite(fields.get("baseline"))) is not None:
            arguments.append(Argument("baseline", f"{baseline:.6g}"))
    else:
        arguments = list(_arguments({n: fields.get(n) for n in ("code", "reason") if fields.get(n) is not None}))
    seconds = finite(fields.get("seconds"))
    if seconds is not None:
        arguments.append(Argument("graded in", f"{seconds:.1f} s"))
    snapshot = fields.get("snapshot")
    if isinstance(snapshot, str) and _DIGEST.fullmatch(snapshot):
        arguments.append(Argument("snapshot", snapshot))
    public = fields.get("public")
    if isinstance(public, dict) and public:
        arguments += _arguments(public)
    return Entry(line.seq, at, "score", kind, tuple(arguments), good=fields.get("valid") is True)


def _title(line: Line) -> str:
    words = {
        "session": "the session began",
        "grader_error": "the grader failed",
        "snapshot": "a snapshot was taken",
        "restored": "the workspace was set back",
        "restoring": "the workspace is being set back",
        "restore_failed": "the workspace could not be set back",
        "forked": "another session began with a snapshot of this one",
        "adopted": "another server went on with the session",
        "detached": "the server left the session to the next one",
        "ending": "the end began",
    }
    if line.type == "sandbox":
        return f"the sandbox {one_line(line.fields.get('state', 'changed'), 40)}"
    if line.type == "end":
        return one_line(line.fields.get("outcome") or "ended", 40)
    return words.get(line.type, line.type)


def _told(line: Line) -> dict[str, Any]:
    told = {name: value for name, value in line.fields.items() if name not in _NOT_SHOWN | {"seq", "t", "type"}}
    if line.type == "end" or line.type == "sandbox":
        told.pop("score", None)
        told.pop("data", None)
    return told


def _arguments(values: Mapping[str, Any]) -> tuple[Argument, ...]:
    return tuple(_argument(one_line(name, 60), value) for name, value in list(values.items())[:100])


def _argument(name: str, value: Any) -> Argument:
    if isinstance(value, dict):
        digest = value.get("$blob")
        if isinstance(digest, str) and _DIGEST.fullmatch(digest):
            chars = whole(value.get("chars")) or 0
            if value.get("dropped"):
                return Argument(name, f"{chars:,} characters, which were not kept")
            return Argument(name, f"{chars:,} characters", blob=digest)
        if set(value) == {"$json"}:
            value = value["$json"]
    text = value if isinstance(value, str) else _json(value)
    if len(text) <= _SHORT and "\n" not in text:
        return Argument(name, visible(text))
    return Argument(name, text=folded(_bounded(text)))


def _bounded(text: str) -> str:
    if len(text) <= _MOST_CHARS:
        return text
    return f"{text[:_MOST_CHARS]}\n[{len(text) - _MOST_CHARS:,} more characters are not shown]"


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        return "?"


def _job(value: Any) -> str:
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", value) else ""
