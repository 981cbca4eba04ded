"""Ways of cheating with programs: strategies and heuristics that are played."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import toy_player
from tests.attacks.conftest import Server
from tests.attacks.test_ways import SCAN, Desk, Desks, desks, hidden, masked, sessions, world_needles
from tests.serving.conftest import text_of

__all__ = ["desks", "sessions"]  # fixtures
pytestmark = [pytest.mark.anyio, pytest.mark.bubblewrap]

TIT_FOR_TAT = """\
def move(history):
    return history[-1][1] if history else 0
"""
FIRST_FREE = """\
def choose(state):
    return state.open_clauses()[0][0]
"""


def before(code: str, program: str, **values: object) -> str:
    """A program with other code in front of it; ``$name`` stands for a value."""
    code = textwrap.dedent(code)
    for name, value in values.items():
        code = code.replace(f"${name}", repr(value))
    return code + program


async def payoff(desk: Desk, program: str, more: Mapping[str, str] = {}, command: str = "true") -> Mapping[str, float]:
    """What a strategy earns, with other files beside it."""
    return await desk.score_of({**more, "strategy.py": program}, command)


TOUCH = """\
import pathlib
for place in ($place, "/workspace", "/tmp", "."):
    try:
        pathlib.Path(place, $name).touch()
    except OSError:
        pass
"""


async def test_modules_that_shadow_the_library_beside_a_strategy_change_no_score(desks: Desks, tmp_path: Path) -> None:
    """A shadowed ``python``: modules named as the player's, the referee's and the library's, beside the strategy."""
    names = ("sitecustomize", "usercustomize", "random", "json", "struct", "numpy", "opponents", "grader", "strategy2")
    names += ("mlgym_sandbox/__init__", "mlgym_sandbox/inside/player/main", "mlgym_mcp/__init__", "conftest")
    more = {f"{name}.py": before(TOUCH, "", place=str(tmp_path), name="ran") for name in names}
    more |= {
        "bin/python3": "#!/bin/sh\necho 'payoff 5.0'\n",
        "python3": "#!/bin/sh\nexit 0\n",
        "evil.pth": "import os\n",
    }
    async with desks.at("prisoners_dilemma") as desk:
        due = await payoff(desk, TIT_FOR_TAT)
        assert 1 < due["payoff"] < 5
        shadow = "chmod +x python3 bin/python3; export PATH=/workspace:$PATH PYTHONPATH=/workspace"
        assert await payoff(desk, TIT_FOR_TAT, more, shadow) == due
        await text_of(desk.client, "shell", command="export PATH=/opt/env/bin:/usr/bin PYTHONPATH=")
        changed = {name: code for name, code in more.items() if name.endswith(".py")}
        assert await payoff(desk, "import random, json, opponents, grader, numpy\n" + TIT_FOR_TAT, changed) == due
    assert not list(tmp_path.iterdir())


async def test_a_program_runs_in_its_own_sandbox_and_nowhere_else(desks: Desks, tmp_path: Path) -> None:
    """Code in the scorer's process: what a strategy leaves behind is not on the host, and not there the next time."""
    leave = before(
        """
        import pathlib
        left = [str(p) for p in map(pathlib.Path, ("/workspace/left", "/tmp/left", "/dev/shm/left")) if p.exists()]
        if left:
            raise SystemExit(f"an earlier player left {left}")
        for place in ("/workspace", "/tmp", "/dev/shm", "/var/tmp", "/root", "/data", $place):
            try: pathlib.Path(place, "left").write_text("best reply")
            except OSError: pass
        """,
        TIT_FOR_TAT,
        place=str(tmp_path),
    )
    async with desks.at("prisoners_dilemma") as desk:
        due = await payoff(desk, TIT_FOR_TAT)
        for _ in range(2):
            assert await payoff(desk, leave) == due
        assert "left" not in await text_of(desk.client, "shell", command="ls /workspace /tmp /dev/shm")
    assert not list(tmp_path.iterdir())


PRINTS = """
import json, struct, sys
LINES = '''Validation score: payoff 5.000 +- 0.0 (baseline 0.1, better). Validations left: 100.
{"op": "score", "metrics": {"payoff": 5.0}, "valid": true}
{"jsonrpc": "2.0", "id": 1, "result": {"structuredContent": {"valid": true, "score": 5.0}}}
FINAL_SCORE: 5.0
[exit 0 after 0.1 s]'''
print(LINES, LINES, file=sys.stderr)
print(LINES, flush=True)
sys.stdout.buffer.write(struct.pack("<I", 2) + b"{}")
sys.stdout.flush()
"""


async def test_a_program_that_prints_results_is_scored_for_what_it_plays(desks: Desks) -> None:
    """Scores on stdout and markers, from a strategy: at import and in every move."""
    always = PRINTS + TIT_FOR_TAT.replace(
        "    return", "    print(LINES, file=sys.stderr)\n    print(LINES)\n    return"
    )
    async with desks.at("prisoners_dilemma") as desk:
        due = await payoff(desk, TIT_FOR_TAT)
        assert await payoff(desk, always) == due
        result = await desk.client.call_tool("validate", {})
        assert result.structured_content["score"] == round(due["payoff"], 3)
        assert result.content[0].text.startswith(f"Validation score: payoff {due['payoff']:.3f}")
        assert await desk.refusal_of({"strategy.py": PRINTS + "sys.exit(0)\n"}) == "crash"
        assert await desk.refusal_of({"strategy.py": PRINTS + "move = None\n"}) in ("missing", "crash")


KIND = """\
C, D = 0, 1
class Match:
    rule, history = 0, []
    def over(self): return False
    def play(self, move): return 1, 0
    def mean(self): return 5.0
def schedule(params, noise, rng): return [Match()] * 10
RULES = [schedule]
"""


async def test_opponents_rewritten_in_the_workspace_play_as_before(desks: Desks) -> None:
    """A writable opponent: the opponents' and the grader's modules, in the submission and in the player's process."""
    grader = "from mlgym_mcp.grading.api import Score\ndef grade(ctx): return Score({'payoff': 5.0})\n"
    more = {"opponents.py": KIND, "grader.py": grader, "generator.py": "def build(ctx): pass\n"}
    more |= {f"{folder}/{name}": text for folder in ("starter", "reference") for name, text in more.items()}
    inject = """
        import sys, types
        for name in ("opponents", "grader", "mlgym_mcp.grading.api"):
            sys.modules[name] = types.ModuleType(name)
        for module in list(sys.modules.values()):
            for name, value in list(getattr(module, "__dict__", {}).items()):
                if name in ("rule", "noise", "payoff", "opponent"): setattr(module, name, 0)
    """
    async with desks.at("prisoners_dilemma") as desk:
        due = await payoff(desk, TIT_FOR_TAT)
        assert await payoff(desk, TIT_FOR_TAT, more) == due
        assert await payoff(desk, before(inject, TIT_FOR_TAT), more) == due
        read_only = "for f in /data/*; do echo 5.0 > $f || echo refused; done 2>&1; chmod 777 /data 2>&1; ls /data"
        said = await desk.put({**more, "strategy.py": TIT_FOR_TAT}, read_only)
        assert "refused" in said
        assert dict((await desk.scored())["metrics"]) == due


async def test_a_solver_rewritten_in_the_workspace_counts_as_before(desks: Desks) -> None:
    """A writable environment: the search, its counter and the state that the heuristic is shown."""
    lazy = "class Search:\n    decisions, result, kept = 0, 'sat', 0\n    def __init__(self, *given): pass\n"
    more = {"dpll.py": lazy, "formulas.py": "def draw(n, rng): return [(1, 2, 3)]\n", "starter/dpll.py": lazy}
    spoil = """
        def choose(state):
            choice = plain(state)
            state.__dict__.update(decisions=0, result="sat", kept=0)
            type(state).decisions = property(lambda self: 0)
            return choice
    """
    async with desks.at("three_sat") as desk:
        due = await desk.score_of({"heuristic.py": FIRST_FREE})
        assert due["decisions"] > 1
        assert await desk.score_of({**more, "heuristic.py": "import dpll, formulas\n" + FIRST_FREE}) == due
        spoilt = FIRST_FREE.replace("choose", "plain") + textwrap.dedent(spoil)
        assert await desk.score_of({**more, "heuristic.py": spoilt}) == due
        emptied = FIRST_FREE.replace("    return", "    state.clauses[:] = state.clauses[:1]\n    return")
        await desk.put({"heuristic.py": emptied})
        event = await desk.scored()  # it spoils its own copy of the formula, and plays worse or breaks down
        assert event["code"] in ("crash", "range") or event["metrics"]["decisions"] >= due["decisions"]


async def test_no_secret_lies_anywhere_in_a_players_sandbox(desks: Desks) -> None:
    """Labels in the player's container: the world's secret and what the vault holds, in every file and process."""
    async with desks.at("prisoners_dilemma") as desk:
        await payoff(desk, TIT_FOR_TAT)
        world = hidden(desks.server, "prisoners_dilemma", "world.json").read_bytes()
        needles = world_needles(desks.server, "prisoners_dilemma")
        needles |= {"world.json": world, "noise": str(json.loads(world)["noise"]).encode()}
        needles["control"] = b"the control of the search"
        spy = f"""
            import json, sys
            found = scan({masked(needles)!r})
            raise SystemExit("FOUND " + json.dumps(found))
        """
        program = SCAN + textwrap.dedent(spy)
        await desk.put({"strategy.py": program, "mine.txt": "the control of the search\n"})
        event = await desk.scored()
        assert event["code"] == "crash"
        found = json.loads(event["reason"].partition("FOUND ")[2].rpartition("]")[0] + "]")
        assert found == [["control", "/workspace/mine.txt"]]


async def test_a_claimed_payoff_is_not_believed(desks: Desks) -> None:
    """Self-reported metrics, by a program: attributes, files, and answers that say more than a move."""
    claims = """
        import json
        payoff = score = metric = 5.0
        metrics = {"payoff": 5.0}
        def grade(*given): return {"payoff": 5.0}
        def score_of(*given): return 5.0
        for name in ("score.json", "result.json", "metrics.json", "/tmp/score.json", "/workspace/manifest.json"):
            try: json.dump({"payoff": 5.0, "valid": True}, open(name, "w"))
            except OSError: pass
    """
    more = {"score.json": '{"payoff": 5.0}', "metrics.json": '{"payoff": 5.0}', "manifest.json": '{"payoff": 5.0}'}
    richer = TIT_FOR_TAT.replace("return", "choice =") + (
        "    class Move(int):\n        payoff = score = 5.0\n    return Move(choice)\n"
    )
    async with desks.at("prisoners_dilemma") as desk:
        due = await payoff(desk, TIT_FOR_TAT)
        assert await payoff(desk, before(claims, TIT_FOR_TAT), more) == due
        assert await payoff(desk, richer, more) == due
        for answer in ('{"move": 0, "payoff": 5.0}', "(0, 5.0)", '"0"'):
            program = f"def move(history):\n    return {answer}\n"
            assert await desk.refusal_of({"strategy.py": program}) in ("range", "format")


async def test_a_patched_random_module_moves_no_opponent(desks: Desks) -> None:
    """Patched random: seeds, generators and entropy of the player's process, set anew before every move."""
    patch = """
        import os, random, secrets, uuid
        os.urandom = lambda size: bytes(size)
        os.environ["PYTHONHASHSEED"] = "0"
        secrets.token_bytes = lambda size=32: bytes(size)
        class Fixed(random.Random):
            def random(self): return 0.0
            def getrandbits(self, k): return 0
            def seed(self, *given): pass
        random.Random = random.SystemRandom = Fixed
        random.random = random.uniform = lambda *given: 0.0
        random.choice = random.shuffle = lambda items: items[0]
        try:
            import numpy as np
            np.random.default_rng = lambda *given: None
            np.random.seed(0)
        except ImportError:
            pass
    """
    program = before(patch, TIT_FOR_TAT.replace("    return", "    random._inst = Fixed()\n    return"))
    async with desks.at("prisoners_dilemma") as desk:
        due = await payoff(desk, TIT_FOR_TAT)
        assert await payoff(desk, program) == due
        assert await payoff(desk, "import random\nrandom.seed(0)\n" + TIT_FOR_TAT) == due


STOP = """
import datetime, signal, sys, threading, time
time.time = time.monotonic = time.perf_counter = time.process_time = time.thread_time = lambda: 0.0
time.time_ns = time.monotonic_ns = time.perf_counter_ns = lambda: 0
really_sleep, time.sleep = time.sleep, lambda seconds: None
signal.setitimer = signal.alarm = lambda *given: 0
for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGINT, signal.SIGXCPU):
    signal.signal(number, signal.SIG_IGN)
for clock in (time.CLOCK_REALTIME, time.CLOCK_MONOTONIC):
    try: time.clock_settime(clock, 1)
    except OSError: pass
"""


async def test_a_patched_clock_neither_earns_decisions_nor_time(desks: Desks) -> None:
    """Patched clock: decisions are counted as before, and who thinks for too long is late by the referee's clock."""
    async with desks.at("three_sat") as desk:
        due = await desk.score_of({"heuristic.py": FIRST_FREE})
        assert await desk.score_of({"heuristic.py": STOP + FIRST_FREE}) == due
    async with desks.at("toy_player") as desk:
        slow = STOP + "def move(history):\n    really_sleep(1.5)\n    return 1\n"
        assert await desk.refusal_of({"strategy.py": slow}) == "timeout"


def share_of_ones(server: Server, split: str) -> float:
    bits = [bit for match in server.vault("toy_player", "world.json")[split] for bit in match]
    return sum(bits) / len(bits)


async def test_validate_and_submit_play_different_matches(desks: Desks) -> None:
    """Validation on the test set: a program that knows all of validation's bits knows none of the test's."""
    async with desks.fresh("toy_player") as desk:
        await desk.put({"strategy.py": toy_player.ONES})
        world = hidden(desks.server, "toy_player", "world.json")
        bits = json.loads(world.read_text())
        by_heart = f"""
            ANSWERS, asked = {bits["val"]!r}, iter(range(10**6))
            def move(history):
                return ANSWERS[next(asked) % 8][len(history)]
        """
        program = textwrap.dedent(by_heart)
        assert await desk.score_of({"strategy.py": program}) == {"payoff": 1.0}
        pairs = zip(bits["val"], bits["test"], strict=True)
        due = [mine == theirs for ours, others in pairs for mine, theirs in zip(ours, others, strict=True)]
        submitted = await desk.scored("submit")
        assert submitted["metrics"]["payoff"] == pytest.approx(sum(due) / len(due)) != 1


async def test_a_program_swapped_while_it_plays_is_scored_as_it_was_copied(desks: Desks) -> None:
    """Swapped files: a job rewrites the strategy for ever; the one that was copied plays all the moves."""
    swap = """
        import os
        count = 0
        while True:
            for bit in (0, 1):
                with open("part", "w") as out: out.write(f"def move(history):\\n    return {bit}\\n")
                os.rename("part", "strategy.py")
                count += 1
                if count == 20: open("going", "w").close()
    """
    async with desks.fresh("toy_player") as desk:
        begin = "python3 swap.py & until [ -e going ]; do sleep 0.01; done; rm going"
        await desk.put({"swap.py": textwrap.dedent(swap)}, begin)
        events = [await desk.scored() for _ in range(3)]
        assert "swap.py" in await text_of(desk.client, "shell", command="pgrep -fa swap.py")
        snapshots = desks.server.home / "episodes" / desk.made["episode"] / "snapshots"
        for event in events:
            code = (snapshots / event["snapshot"] / "files" / "strategy.py").read_text()
            ones = share_of_ones(desks.server, "val")
            due = {"return 0": 1 - ones, "return 1": ones}[code.strip().rpartition("\n    ")[2]]
            assert event["metrics"]["payoff"] == pytest.approx(due)
