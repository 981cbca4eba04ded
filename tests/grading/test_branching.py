"""Branching: the player's copy of a search is the referee's, and any literal but an unassigned one is refused."""

from __future__ import annotations

import importlib.util
import inspect
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from mlgym_sandbox.inside.player import branching as player_side

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[2]

GRADER = f"""
import random, sys
sys.path.insert(0, {str(ROOT / "tasks" / "three_sat")!r})
import formulas
from starter import dpll
from mlgym_mcp.grading.branching import Branching

def choose(state):
    words = random.Random(repr([state.trail, state.open_clauses(), state.unassigned()]))
    return words.choice(state.unassigned()) * words.choice((1, -1))

def grade(ctx):
    drawn = [formulas.draw(15, ctx.rng(str(i))) for i in range(4)]
    searches = [dpll.Search(15, clauses, 1000) for clauses in drawn]
    same = total = 0
    with ctx.player("heuristic.py", "branching") as player:
        heuristic = Branching(player, "heuristic.py", 15, drawn)
        while live := [i for i, search in enumerate(searches) if search.result is None]:
            asked = [(i, searches[i].kept, searches[i].state.trail) for i in live]
            for i, literal in zip(live, heuristic.choose(asked), strict=True):
                same += literal == choose(searches[i].state)
                total += 1
                searches[i].kept = len(searches[i].state.trail)
                searches[i].decide(literal)
    return Score({{"score": same / total}}, private={{"results": sorted({{s.result for s in searches}})}})
"""
HONEST = """
import random

def choose(state):
    words = random.Random(repr([state.trail, state.open_clauses(), state.unassigned()]))
    return words.choice(state.unassigned()) * words.choice((1, -1))
"""


def starter() -> Any:
    spec = importlib.util.spec_from_file_location("starter_dpll", ROOT / "tasks/three_sat/starter/dpll.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


async def test_the_player_sees_the_search_as_the_referee_does(bench: Any) -> None:
    result = await bench.grade(GRADER, {"heuristic.py": HONEST})
    assert result.reason is None
    assert result.metrics == {"score": 1.0}, "the same choice at every state, on both sides"
    assert "sat" in result.private["results"]


@pytest.mark.parametrize(
    "spoil",
    ["state.implied(7) if not state.value(7) else 0", "state.extend(state.unassigned()[0])", "state.open_clauses()"],
)
async def test_a_look_ahead_leaves_nothing_behind(bench: Any, spoil: str) -> None:
    code = HONEST + f"\nplain = choose\ndef choose(state):\n    answer = plain(state)\n    {spoil}\n    return answer\n"
    assert (await bench.grade(GRADER, {"heuristic.py": code})).metrics == {"score": 1.0}


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ("0", "range", "no variable"),
        ("16", "range", "no variable"),
        ("-16", "range", "no variable"),
        ("40000", "range", "number of 16 bits"),
        ("-10**30000", "range", "expected a literal"),
        ("state.trail[0] if state.trail else 1", "range", "assigned already"),
        ("-state.trail[0] if state.trail else 1", "range", "assigned already"),
        ("1.0", "range", "expected an integer"),
        ("None", "range", "expected an integer"),
        ("'1'", "range", "expected an integer"),
        ("[1]", "range", "expected an integer"),
        ("1 // 0", "crash", "ZeroDivisionError"),
        ("exit(0)", "crash", "SystemExit"),
        ("__import__('os')._exit(0)", "crash", "ended when asked"),
    ],
)
async def test_what_is_no_free_literal_is_refused(bench: Any, answer: str, code: str, said: str) -> None:
    result = await bench.grade(GRADER, {"heuristic.py": f"def choose(state):\n    return {answer}\n"})
    assert result.reason_code == code
    assert said in result.reason + str(result.public)


async def test_a_file_without_the_function_is_refused(bench: Any) -> None:
    assert (await bench.grade(GRADER, {"heuristic.py": "x = 1\n"})).reason_code == "missing"


async def test_spoiling_the_copy_hurts_nobody_else(bench: Any) -> None:
    code = "def choose(state):\n    state.undo(0)\n    return 1\n"
    assert (await bench.grade(GRADER, {"heuristic.py": code})).reason_code == "range"


def test_both_copies_of_the_state_are_one_text() -> None:
    assert inspect.getsource(player_side.State) == inspect.getsource(starter().State)


def test_undo_takes_back_what_was_assigned() -> None:
    rng, state = random.Random(1), starter().State(6, [(1, -2, 3), (-1, 2, 4), (2, -5, 6)])
    for _ in range(50):
        before = list(state.trail)
        if state.unassigned():
            state.extend(rng.choice(state.unassigned()))
            assert all(state.value(literal) == 1 == -state.value(-literal) for literal in state.trail)
        state.undo(rng.randrange(len(before) + 1))
        assert state.trail == before[: len(state.trail)]
        assert len(state.trail) + len(state.unassigned()) == state.n
