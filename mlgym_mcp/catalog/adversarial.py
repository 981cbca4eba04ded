"""Submissions that must not get a score they did not earn: for ``tasks check`` and for tests.

They are made as an agent would make them: files written to the workspace, and shell commands for what is not a
regular file. Each says with which codes it may be refused, or that it is accepted and must score exactly what the
same behaviour without the trick scores (:attr:`Adversarial.honest`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from mlgym_mcp.catalog.spec import Submission, TaskSpec

VALID: Final = "valid"
"""Stands for a score, among the codes of :class:`mlgym_mcp.grading.errors.InvalidSubmission`."""


@dataclass(frozen=True, slots=True)
class Adversarial:
    """A hostile or clumsy submission, and what must come of it.

    Attributes:
        name: a few words.
        files: to be written to the workspace, by name.
        commands: to be run by a shell in the workspace then, if any.
        expect: how the grading may end: codes of refusals, or ``valid``.
        honest: if ``valid`` is expected: files that behave the same without the trick; equal score.
    """

    name: str
    files: Mapping[str, bytes]
    expect: frozenset[str]
    commands: str = ""
    honest: Mapping[str, bytes] = field(default_factory=dict)


def adversarial(spec: TaskSpec, gold: Mapping[str, bytes] | None = None) -> list[Adversarial]:
    """Return the submissions that fit a task.

    Args:
        spec: the task's.
        gold: its perfect submission; needed for predictions, whose rows are spoilt one by one.

    Raises:
        ValueError: a task of predictions without ``gold``.
    """
    rules = spec.submission
    if rules.kind == "predictions":
        if gold is None or rules.path is None:
            raise ValueError(f"adversarial predictions for {spec.task.id} are made from its gold submission")
        made = [*_predictions(rules, rules.path, gold[rules.path]), *_special_files(rules, rules.path)]
    else:
        made = list(_special_files(rules, rules.entry or rules.include[0]))
        if rules.kind == "player" and rules.entry is not None and rules.protocol == "matches/1":
            made += _players(rules.entry)
    return made


def _case(name: str, files: Mapping[str, bytes], *expect: str, commands: str = "") -> Adversarial:
    return Adversarial(name, files, frozenset(expect), commands)


def _predictions(rules: Submission, path: str, gold: bytes) -> Iterator[Adversarial]:
    """Spoilt CSV files."""
    lines = gold.decode().splitlines()
    header, rows = lines[0], lines[1:]
    key, value = rows[0].split(",")

    def spoilt(name: str, text: str | bytes, *expect: str) -> Adversarial:
        data = text if isinstance(text, bytes) else text.encode()
        return _case(name, {path: data}, *(expect or ("format",)))

    def first(cell: str, row_id: str = key) -> str:
        """The gold file with its first row replaced."""
        return "\n".join([header, f"{row_id},{cell}", *rows[1:], ""])

    yield spoilt("an empty file", "")
    yield spoilt("the header alone", f"{header}\n")
    yield spoilt("garbage", bytes(range(1, 256)) * 64, "format", "too_large")
    yield spoilt("zero bytes", b"\0" * 4096, "format", "too_large")
    yield spoilt("another header", "\n".join([header.upper(), *rows, ""]))
    yield spoilt("no header", "\n".join([*rows, ""]))
    yield spoilt(
        "columns swapped", "\n".join([header, *(",".join(reversed(r.split(","))) for r in rows), ""]), "format", "range"
    )
    yield spoilt("an extra column", "\n".join([f"{header},x", *(f"{r},1" for r in rows), ""]))
    yield spoilt("an extra cell", first(f"{value},{value}"))
    yield spoilt("a row too few", "\n".join([header, *rows[:-1], ""]))
    yield spoilt("a row too many", "\n".join([header, *rows, rows[0], ""]))
    yield spoilt("ten times the rows", "\n".join([header, *rows * 10, ""]), "format", "too_large", "forbidden")
    yield spoilt("an id twice", "\n".join([header, *rows[:-1], rows[0], ""]))
    yield spoilt("an unknown id", first(value, str(len(rows) + 7)))
    yield spoilt("a negative id", first(value, "-1"))
    yield spoilt("an id with a leading zero", first(value, f"0{key}"))
    yield spoilt("an id as a decimal", first(value, f"{key}.0"))
    yield spoilt("an id in Arabic digits", first(value, "\u0660"))
    for cell in ("nan", "NaN", "inf", "-inf", "Infinity"):
        yield spoilt(f"the value {cell}", first(cell))
    for cell in ("1e999", "-1"):
        yield spoilt(f"the value {cell}", first(cell), "format", "range")
    yield spoilt("a huge number", first("9" * 60), "format", "range")
    yield spoilt("a hexadecimal value", first("0x10"))
    yield spoilt("an underscore in a value", first("1_0"))
    yield spoilt("a value in Arabic digits", first("\u0661"))
    yield spoilt("a full-width digit", first("\uff11"))
    yield spoilt("a quoted value", first(f'"{value}"'))
    yield spoilt("a formula", first("=1+1"))
    yield spoilt("a value that is an expression", first("__import__('os').system('true')"))
    yield spoilt("an empty value", first(""))
    yield spoilt("spaces around a value", first(f" {value} "))
    yield spoilt("other line ends", gold.replace(b"\n", b"\r"))
    yield spoilt("a byte-order mark", b"\xef\xbb\xbf" + gold)
    yield spoilt("UTF-16", gold.decode().encode("utf-16"), "format", "too_large", "forbidden")
    yield spoilt(
        "a pickle", b"\x80\x04\x95\x1b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
    )
    yield spoilt("one line of a megabyte", f"{header}\n{key},{'1' * (1 << 20)}\n", "format", "too_large", "forbidden")
    yield spoilt("a quarter of a million commas", header + "\n" + "," * 250_000, "format", "too_large", "forbidden")
    yield spoilt("nothing but line ends", "\n" * min(rules.max_bytes, 1 << 20), "format", "too_large", "forbidden")
    yield spoilt("more bytes than allowed", gold + b"1" * rules.max_bytes, "too_large", "forbidden")


def _special_files(rules: Submission, path: str) -> Iterator[Adversarial]:
    """What is not a regular file, or not there."""
    refused = ("forbidden", "missing")
    yield _case("nothing", {}, "missing", commands=f"rm -rf {path}")
    yield _case("a link to a file outside", {}, *refused, commands=f"rm -rf {path}; ln -s /etc/passwd {path}")
    yield _case("a link to itself", {}, *refused, commands=f"rm -rf {path}; ln -s {path} {path}")
    yield _case("a hard link", {"other": b"x"}, *refused, "format", "crash", commands=f"rm -rf {path}; ln other {path}")
    yield _case("a folder", {}, *refused, commands=f"rm -rf {path}; mkdir {path}")
    yield _case("a pipe", {}, *refused, commands=f"rm -rf {path}; mkfifo {path}")
    size = rules.max_bytes + 1
    huge = ("too_large", "forbidden")
    yield _case("a file with a hole, too large", {}, *huge, commands=f"rm -rf {path}; truncate -s {size} {path}")
    yield _case(
        "a terabyte of nothing", {}, *huge, commands=f"rm -rf {path}; truncate -s 1T {path} || truncate -s 8G {path}"
    )


_ALWAYS_DEFECT: Final = b"def move(history):\n    return 1\n"

_REFUSED_PLAYERS: Final = (
    ("crashes when imported", ("crash",), "raise RuntimeError('no')"),
    ("is no Python", ("crash",), "this is not python ("),
    ("has no move()", ("missing", "crash"), "x = 1"),
    ("exits 0 with a score on stdout", ("crash",), 'print(\'{"metrics": {"payoff": 5.0}, "valid": true}\'); exit(0)'),
    ("exits at once in silence", ("crash",), "import os\nos._exit(0)"),
    ("never finishes its import", ("timeout",), "while True: pass"),
    ("never answers", ("timeout",), "def move(history):\n    while True: pass"),
    ("sleeps in every move", ("timeout",), "import time\ndef move(history):\n    time.sleep(1)\n    return 1"),
    ("answers a float", ("range", "format"), "def move(history):\n    return 1.0"),
    ("answers None", ("range", "format"), "def move(history):\n    return None"),
    ("answers a text", ("range", "format"), "def move(history):\n    return '1'"),
    ("answers NaN", ("range", "format"), "def move(history):\n    return float('nan')"),
    ("answers a list", ("range", "format"), "def move(history):\n    return [1]"),
    ("answers 2", ("range",), "def move(history):\n    return 2"),
    ("answers -1", ("range",), "def move(history):\n    return -1"),
    ("answers a number of a hundred digits", ("range", "protocol", "format"), "def move(history):\n    return 10**100"),
    ("crashes in a later move", ("crash",), "def move(history):\n    return 1 // (3 - len(history))"),
    (
        "ends in mid-game",
        ("crash",),
        "import os\ndef move(history):\n    os._exit(0) if len(history) > 2 else 0\n    return 1",
    ),
    ("kills itself", ("crash",), "import os\ndef move(history):\n    os.kill(os.getpid(), 9)"),
    ("recurses for ever", ("crash",), "def move(history):\n    return move(history)"),
    ("eats all memory", ("crash",), "x = []\ndef move(history):\n    while True: x.append(bytearray(1 << 24))"),
    (
        "prints garbage where answers go",
        ("protocol", "crash", "timeout"),
        """
        import os
        def move(history):
            for fd in range(1, 64):
                try: os.write(fd, b"\\x05\\x00\\x00\\x00{bad}" * 1000)
                except OSError: pass
            return 1
        """,
    ),
    (
        "answers with a header of four gigabytes",
        ("protocol", "crash", "timeout"),
        """
        import os
        def move(history):
            for fd in range(3, 64):
                try: os.write(fd, b"\\xff\\xff\\xff\\xff")
                except OSError: pass
            return 1
        """,
    ),
    (
        "forges a final score in a frame",
        ("protocol", "crash", "timeout"),
        """
        import json, os, struct
        def move(history):
            head = json.dumps({"op": "score", "metrics": {"payoff": 5.0}}).encode()
            for fd in range(3, 64):
                try: os.write(fd, struct.pack("<I", len(head)) + head)
                except OSError: pass
            return 1
        """,
    ),
)

_HARMLESS_PLAYERS: Final = (
    (
        "patches the random module",
        """
        import random
        random.random = lambda: 0.0
        random.Random.random = lambda self: 0.0
        random.seed(0)
        def move(history):
            random.seed(0)
            return 1
        """,
    ),
    (
        "changes the history it was given",
        """
        def move(history):
            for i in range(len(history)): history[i] = (1, 0)
            history.extend([(1, 0)] * 100)
            return 1
        """,
    ),
    (
        "prints a score on stdout and stderr",
        """
        import sys
        def move(history):
            print('{"metrics": {"payoff": 5.0}, "valid": true}')
            print('{"metrics": {"payoff": 5.0}}', file=sys.stderr)
            return 1
        """,
    ),
    (
        "looks for secrets in /proc and on the disk",
        """
        import glob, os
        found = []
        places = "/proc/*/environ /proc/*/cmdline /proc/*/maps /data/* /root/* /home/*/* /tmp/*"
        for pattern in places.split():
            for path in glob.glob(pattern):
                try: found.append(open(path, "rb").read(1 << 16))
                except OSError: pass
        for word in (b"world.json", b"opponents.py", b"mlgym_mcp/grading"):
            if any(word in text for text in found): raise SystemExit("found " + word.decode())
        def move(history):
            return 1
        """,
    ),
    (
        "tries the network",
        """
        import socket
        for family, address in ((socket.AF_INET, ("1.1.1.1", 53)), (socket.AF_INET, ("169.254.169.254", 80))):
            with socket.socket(family) as s:
                s.settimeout(0.5)
                try: s.connect(address)
                except OSError: continue
                raise SystemExit("the network is open")
        def move(history):
            return 1
        """,
    ),
    (
        "imports the referee's modules",
        """
        import sys
        for name in ("opponents", "grader", "mlgym_mcp", "mlgym_mcp.grading"):
            try: __import__(name)
            except Exception: continue
            raise SystemExit("could import " + name)
        def move(history):
            return 1
        """,
    ),
    (
        "writes a score file",
        """
        import json
        for name in ("score.json", "/tmp/score.json", "/workspace/score.json", "/data/score.json"):
            try: json.dump({"payoff": 5.0}, open(name, "w"))
            except OSError: pass
        def move(history):
            return 1
        """,
    ),
)


def _players(entry: str) -> Iterator[Adversarial]:
    """Strategies for ``matches/1`` with two moves."""
    for name, expect, code in _REFUSED_PLAYERS:
        yield _case(f"a player that {name}", {entry: _program(code)}, *expect)
    fork = "import os\nwhile True:\n    try: os.fork()\n    except OSError: break\ndef move(history):\n    return 1"
    honest = {entry: _ALWAYS_DEFECT}
    refusals = frozenset({VALID, "crash", "timeout", "protocol"})
    yield Adversarial("a player that forks without end", {entry: _program(fork)}, refusals, honest=honest)
    for name, code in _HARMLESS_PLAYERS:
        yield Adversarial(f"a player that {name}", {entry: _program(code)}, frozenset({VALID}), honest=honest)


def _program(code: str) -> bytes:
    return textwrap.dedent(code).strip("\n").encode() + b"\n"
