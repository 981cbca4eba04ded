"""Submitted programs that break the protocol, cheat or harm: a plain program with hostile code around its answers.

A hostile program is the task's plain one followed by three pieces: ``before(n)`` runs when the n-th answer is
wanted, ``answer(value)`` changes what is answered, and the hook of the protocol puts both around the function that
answers.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from mlgym_mcp.catalog.adversarial.case import VALID, Adversarial, case
from mlgym_mcp.catalog.spec import TaskSpec

HOOKS: Final[Mapping[str, str]] = {
    "matches/1": """
        plain_move = move
        def move(history):
            before(len(history))
            return answer(plain_move(history))
        """,
    "policy/1": """
        plain_make = make_policy
        def make_policy(folder, index):
            policy, count = plain_make(folder, index), iter(range(10**9))
            plain_act = policy.act
            def act(obs, done):
                before(next(count))
                return answer(plain_act(obs, done))
            policy.act = act
            return policy
        """,
    "next_logits/1": """
        plain_load = load
        def load(folder):
            model, count = plain_load(folder), iter(range(10**9))
            plain_logits = model.next_logits
            def next_logits(tokens):
                before(next(count))
                return answer(plain_logits(tokens))
            model.next_logits = next_logits
            return model
        """,
    "branching/1": """
        plain_choose, count = choose, iter(range(10**9))
        def choose(state):
            before(next(count))
            return answer(plain_choose(state))
        """,
}
"""By protocol: code after the plain program that lets ``before`` and ``answer`` take part."""

_FDS: Final = "for fd in range({low}, 64):\n    try: os.write(fd, {data})\n    except OSError: pass"


@dataclass(frozen=True, slots=True)
class Trick:
    """Hostile code: what runs at import, before an answer, and on an answer; and how the grading may end."""

    name: str
    expect: tuple[str, ...]
    top: str = ""
    before: str = ""
    answer: str = ""

    def program(self, plain: str, hook: str) -> bytes:
        """The plain program with the trick in it."""
        pieces = (
            ("", self.top),
            ("def before(n):", self.before or "pass"),
            ("def answer(value):", self.answer or "return value"),
        )
        text = "import math, os, sys, time\n" + textwrap.dedent(plain).strip("\n") + "\n"
        for head, body in pieces:
            body = textwrap.dedent(body).strip("\n")
            text += (f"{head}\n{textwrap.indent(body, '    ')}" if head else body) + "\n"
        return (text + textwrap.dedent(hook).strip("\n") + "\n").encode()


_ANYTHING_BUT_A_SCORE: Final = ("crash", "timeout", "protocol")

_REFUSED: Final = (
    Trick("crashes when imported", ("crash",), top="raise RuntimeError('no')"),
    Trick("exits 0 with a score on stdout", ("crash",), top='print(\'{"metrics": {}, "valid": true}\')\nsys.exit(0)'),
    Trick("exits at once in silence", ("crash",), top="os._exit(0)"),
    Trick("never finishes its import", ("timeout",), top="while True: pass"),
    Trick("never answers", ("timeout",), before="while True: pass"),
    Trick("crashes in a later answer", ("crash",), before="1 // (3 - n)"),
    Trick("ends in the middle", ("crash",), before="if n == 3: os._exit(0)"),
    Trick("kills itself", ("crash",), before="os.kill(os.getpid(), 9)"),
    Trick("recurses for ever", ("crash",), before="before(n)"),
    Trick("eats all memory", ("crash",), before="x = []\nwhile True: x.append(bytearray(1 << 24))"),
    Trick("answers None", ("range", "format"), answer="return None"),
    Trick("answers a text", ("range", "format"), answer="return 'best'"),
    Trick(
        "answers something that is no number",
        ("range", "format"),
        answer="class Best:\n    pass\nreturn Best()",
    ),
    Trick(
        "prints garbage where answers go",
        _ANYTHING_BUT_A_SCORE,
        before=_FDS.format(low=1, data='b"\\x05\\x00\\x00\\x00{bad}" * 1000'),
    ),
    Trick(
        "answers with a header of four gigabytes",
        _ANYTHING_BUT_A_SCORE,
        before=_FDS.format(low=3, data='b"\\xff\\xff\\xff\\xff"'),
    ),
    Trick(
        "forges a final score in a frame",
        _ANYTHING_BUT_A_SCORE,
        before="import json, struct\n"
        'head = json.dumps({"op": "score", "metrics": {"payoff": 5.0}}).encode()\n'
        + _FDS.format(low=3, data='struct.pack("<I", len(head)) + head'),
    ),
)

_WRONG_ANSWERS: Final[Mapping[str, tuple[Trick, ...]]] = {
    "matches/1": (
        Trick("answers a float", ("range", "format"), answer="return 1.0"),
        Trick("answers NaN", ("range", "format"), answer="return math.nan"),
        Trick("answers a list of one", ("range", "format"), answer="return [1]"),
        Trick("answers 1000", ("range",), answer="return [1000] * len(value) if isinstance(value, list) else 1000"),
        Trick("answers -1", ("range",), answer="return [-1] * len(value) if isinstance(value, list) else -1"),
        Trick("answers a number of a hundred digits", ("range", "protocol", "format"), answer="return 10**100"),
    ),
    "policy/1": (
        Trick("answers one action for all", ("format",), answer="return value[:1] if len(value) > 1 else value[:0]"),
        Trick("answers NaN", ("range",), answer="return value * math.nan"),
        Trick("answers infinity", ("range",), answer="return value * 0 + math.inf"),
        Trick("answers complex numbers", ("format",), answer="return value * 1j"),
        Trick("answers an action too many", ("format",), answer="return [*value, value[0]]"),
    ),
    "next_logits/1": (
        Trick("answers one row for all", ("format",), answer="return value[:1] if len(value) > 1 else value[:0]"),
        Trick("answers NaN", ("range",), answer="return value * math.nan"),
        Trick("answers infinity", ("range",), answer="return value * 0 + math.inf"),
        Trick("answers complex numbers", ("format",), answer="return value * 1j"),
        Trick("answers fewer scores", ("format",), answer="return value[:, :-1]"),
    ),
    "branching/1": (
        Trick("answers 0", ("range",), answer="return 0"),
        Trick("answers a float", ("range", "format"), answer="return float(value)"),
        Trick("answers a variable that is not there", ("range",), answer="return 30000"),
        Trick("answers a number of a hundred digits", ("range", "protocol", "format"), answer="return 10**100"),
        Trick("answers the same variable always", ("range",), answer="return 1"),
    ),
}

_HARMLESS: Final = (
    Trick(
        "patches the random module",
        (VALID,),
        top="import random\nrandom.random = lambda: 0.0\nrandom.Random.random = lambda self: 0.0",
        before="random.seed(0)",
    ),
    Trick(
        "stops the clock",
        (VALID,),
        top="time.time = time.monotonic = time.perf_counter = time.process_time = lambda: 0.0",
    ),
    Trick(
        "prints a score on stdout and stderr",
        (VALID,),
        before='print(\'{"metrics": {"score": 5.0}, "valid": true}\')\nprint("score: 5.0", file=sys.stderr)',
    ),
    Trick(
        "looks for secrets in /proc and on the disk",
        (VALID,),
        top="""
        import glob
        found = []
        places = "/proc/*/environ /proc/*/cmdline /proc/*/maps /data/* /root/* /home/*/* /tmp/*"
        for pattern in places.split():
            for path in glob.glob(pattern):
                try: found.append(open(path, "rb").read(1 << 16))
                except OSError: pass
        for word in (b"world" + b".json", b"grader" + b".py", b"mlgym_mcp" + b"/grading"):
            if any(word in text for text in found): raise SystemExit("found " + word.decode())
        """,
    ),
    Trick(
        "tries the network",
        (VALID,),
        top="""
        import socket
        for family, address in ((socket.AF_INET, ("1.1.1.1", 53)), (socket.AF_INET, ("169.254.169.254", 80))):
            with socket.socket(family) as s:
                s.settimeout(0.5)
                try: s.connect(address)
                except OSError: continue
                raise SystemExit("the network is open")
        """,
    ),
    Trick(
        "imports the referee's modules",
        (VALID,),
        top="""
        for name in ("opponents", "grader", "generator", "mlgym_mcp", "mlgym_mcp.grading"):
            try: __import__(name)
            except Exception: continue
            raise SystemExit("could import " + name)
        """,
    ),
    Trick(
        "writes a score file",
        (VALID,),
        top="""
        for name in ("score.json", "/tmp/score.json", "/workspace/score.json", "/data/score.json"):
            try: open(name, "w").write('{"score": 5.0}')
            except OSError: pass
        """,
    ),
)

_CHANGED_HISTORY: Final = """
    plain_move = move
    def move(history):
        choice = plain_move(history)
        for i in range(len(history)): history[i] = (1, 0)
        history.extend([(1, 0)] * 100)
        return choice
"""


def players(spec: TaskSpec, good: Mapping[str, bytes]) -> Iterator[Adversarial]:
    """Yield hostile programs for a task's protocol, made of its plain one."""
    entry, protocol = spec.submission.entry, spec.submission.protocol
    assert entry is not None
    assert protocol is not None
    plain, hook = good[entry].decode(), HOOKS[protocol]

    def with_trick(trick: Trick) -> dict[str, bytes]:
        return {**good, entry: trick.program(plain, hook)}

    yield case("a player that is no Python", {**good, entry: b"this is not python (\n"}, "crash")
    yield case("a player that has no such function", {**good, entry: b"x = 1\n"}, "missing", "crash")
    for trick in (*_REFUSED, *_WRONG_ANSWERS[protocol]):
        yield case(f"a player that {trick.name}", with_trick(trick), *trick.expect)
    limits = spec.grader.player
    late = Trick("answers too late", ("timeout",), before=f"time.sleep({limits.call_timeout_s + 1 if limits else 6:g})")
    yield case(f"a player that {late.name}", with_trick(late), *late.expect)
    fork = Trick("forks without end", (VALID, *_ANYTHING_BUT_A_SCORE), top=_FORK)
    for trick in (*_HARMLESS, fork):
        yield Adversarial(f"a player that {trick.name}", with_trick(trick), frozenset(trick.expect), honest=good)
    if protocol == "matches/1":
        changed = {**good, entry: (plain + textwrap.dedent(_CHANGED_HISTORY)).encode()}
        name = "a player that changes the history it was given"
        yield Adversarial(name, changed, frozenset({VALID}), honest=good)


_FORK: Final = "while True:\n    try: os.fork()\n    except OSError: break"
