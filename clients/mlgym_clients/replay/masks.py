"""What of an output differs from run to run without meaning anything, and is not compared."""

from __future__ import annotations

import re

_DAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?"

MASKS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("warnings of a low budget", re.compile(r"\n?\[(?:Budget is low:|The disk is nearly full:)[^\]]*\]"), ""),
    (
        "dates and times",
        re.compile(
            rf"\b\d{{4}}-\d{{2}}-\d{{2}}(?:[T ]{_CLOCK}(?:Z| ?[+-]\d{{2}}:?\d{{2}})?)?"
            rf"|\b{_DAY},? {_MONTH} +\d{{1,2}} {_CLOCK}(?: [A-Z]{{3,4}})? \d{{4}}"
            rf"|\b{_MONTH} +\d{{1,2}} +(?:{_CLOCK}|\d{{4}})"
            r"|\b1[6-9]\d{8}(?:\.\d+)?\b"
            r"|\b\d{1,2}:\d{2}:\d{2}(?:[.,]\d+)?(?: ?[AP]M)?"
            r"|\b\d{1,2}:\d{2}<\d{1,2}:\d{2}"
        ),
        "<time>",
    ),
    (
        "rates",
        re.compile(
            r"\b\d+(?:\.\d+)? ?(?:it|iter|step|sample|image|token|row|example|batch)(?:e?s)?/s(?:ec)?\b"
            r"|\b\d+(?:\.\d+)? ?s/(?:it|iter|step|epoch|batch)\b"
            r"|\b\d+(?:\.\d+)? ?[kKMG]i?B/s\b"
        ),
        "<rate>",
    ),
    (
        "durations",
        re.compile(
            r"\b\d+m\d+(?:\.\d+)?s\b"
            r"|\b\d+(?:\.\d+)?(?:e-?\d+)? ?"
            r"(?:s|ms|us|µs|μs|ns|sec|secs|(?:milli|micro|nano)?seconds?|min|mins|minutes?|h|hours?)\b"
        ),
        "<duration>",
    ),
    ("process ids", re.compile(r"\b(?:pid|PID|process id)[ =:#]*\d+|^\[\d+\] \d+$", re.MULTILINE), "<pid>"),
    (
        "process ids, where a shell says how something died",
        re.compile(
            r"(: line \d+:) +\d+ "
            r"(?=(?:Killed|Terminated|Aborted|Segmentation fault|Bus error|Floating point exception)\b)"
        ),
        r"\1 <pid> ",
    ),
    ("addresses in memory", re.compile(r"\b0x[0-9a-f]{6,16}\b"), "<address>"),
    (
        "temporary names",
        re.compile(r"\btmp[a-z0-9_]{8}\b|\btmp\.[A-Za-z0-9]{6,12}\b|\bpymp-[a-z0-9_]{8}\b"),
        "<temporary>",
    ),
    ("names of sandboxes", re.compile(r"\bmlgym-(?:player-)?[0-9a-f]{12,}(?:-[0-9a-f]+)?"), "<sandbox>"),
    (
        "how much a job had printed",
        re.compile(r"\b\d+(?:\.\d+)? (?:bytes|[KMG]iB) printed\b|(?<=\[bytes )\d+ to \d+ of \d+"),
        "<size>",
    ),
    ("disk space", re.compile(r"\b\d+(?:\.\d+)? of \d+(?:\.\d+)? MiB\b"), "<space>"),
)
"""What is masked, in the order in which it is; ids of jobs are put in order apart from these."""


def masked(text: str) -> str:
    """Return a text with what differs from run to run replaced by what it is."""
    for _, pattern, name in MASKS:
        text = pattern.sub(name, text)
    return text


class JobIds:
    """Ids of jobs of one session, by the order in which they were first seen."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._pattern: re.Pattern[str] | None = None

    def see(self, job: object) -> None:
        """Remember a job, if that is an id of one."""
        if isinstance(job, str) and job and job not in self._places:
            self._places[job] = len(self._places) + 1
            longest = sorted(map(re.escape, self._places), key=len, reverse=True)
            self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(longest)})(?!\w)")

    def masked(self, text: str) -> str:
        """Return a text with the jobs' places in place of their ids."""
        return text if self._pattern is None else self._pattern.sub(lambda m: f"<job {self._places[m[0]]}>", text)
