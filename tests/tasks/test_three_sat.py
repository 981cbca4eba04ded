"""3-SAT: the search answers rightly, formulas are uniform, decisions are counted by the referee."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from mlgym_mcp.catalog import prepare
from mlgym_mcp.catalog.own_submissions import gold, own_submission
from tests.catalog.conftest import ROOT, light_python, mlgym_home  # noqa: F401 - fixtures
from tests.catalog.test_tasks import copy_task, graded

pytestmark = pytest.mark.anyio

FOLDER = ROOT / "tasks" / "three_sat"
SMALL = {"n = 60, clauses = 256": "n = 20, clauses = 85", "val_formulas = 100, test_formulas = 400":
         "val_formulas = 20, test_formulas = 30"}  # fmt: skip


def module(path: str) -> Any:
    name = "three_sat_" + path.replace("/", "_").removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, FOLDER / path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


dpll, formulas = module("starter/dpll.py"), module("formulas.py")


def searched(n: int, clauses: list[tuple[int, int, int]], choose: Any, limit: int = 10_000) -> Any:
    search = dpll.Search(n, clauses, limit)
    while search.result is None:
        search.decide(choose(search.state))
    return search


@pytest.mark.parametrize("seed", range(30))
def test_the_search_finds_what_trying_everything_finds(seed: int) -> None:
    rng, n = random.Random(seed), 8
    triples = (rng.sample(range(1, n + 1), 3) for _ in range(rng.randint(20, 55)))
    clauses = [tuple(v if rng.random() < 0.5 else -v for v in triple) for triple in triples]
    satisfiable = any(
        all(any((literal > 0) == values[abs(literal) - 1] for literal in clause) for clause in clauses)
        for values in itertools.product((False, True), repeat=n)
    )
    search = searched(n, clauses, lambda state: rng.choice(state.unassigned()) * rng.choice((1, -1)))
    assert search.result == ("sat" if satisfiable else "unsat")
    if satisfiable:
        assert all(any(search.state.value(literal) > 0 for literal in clause) for clause in clauses)
    state = search.state
    for index, clause in enumerate(clauses):
        assert state.satisfied(index) == any(state.value(literal) > 0 for literal in clause)
        assert state.free(index) == [literal for literal in clause if not state.value(literal)]


def test_the_limit_ends_a_search() -> None:
    clauses = formulas.draw(60, random.Random(3))
    search = searched(60, clauses, lambda state: state.unassigned()[-1], limit=3)
    assert (search.result, search.decisions) == ("limit", 3)


def test_implied_says_what_extend_does() -> None:
    rng = random.Random(4)
    state = dpll.State(30, formulas.draw(30, rng))
    conflicts = 0
    while state.unassigned():
        literal = rng.choice(state.unassigned()) * rng.choice((1, -1))
        before, implied = list(state.trail), state.implied(literal)
        assert state.trail == before
        if implied is None:
            conflicts += 1
            assert not state.extend(literal)
            break
        assert state.extend(literal)
        assert state.trail == before + implied
        assert all(len(clause) in (2, 3) for clause in state.open_clauses())
    assert conflicts


def test_formulas_have_three_different_variables_a_clause() -> None:
    clauses = formulas.draw(60, random.Random(0))
    assert len(clauses) == 256
    assert all(len({abs(literal) for literal in clause}) == 3 for clause in clauses)
    assert {abs(literal) for clause in clauses for literal in clause} == set(range(1, 61))
    assert 300 < sum(literal > 0 for clause in clauses for literal in clause) < 470


async def test_decisions_are_counted_on_hidden_formulas(
    light_python: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    task = copy_task("three_sat", tmp_path / "tasks", SMALL)
    made = await prepare(task, "mini", python=light_python)
    assert await gold(task, made, light_python) is None
    plain = await own_submission("plain", task, made, light_python)
    assert plain is not None
    first = await graded(task, made, plain, light_python, tmp_path)
    again = await graded(task, made, plain, light_python, tmp_path)
    other = await graded(task, made, plain, light_python, tmp_path, "val")
    assert first.reason is None
    assert first.metrics == again.metrics
    assert first.metrics != other.metrics, "other formulas on the other split"
    assert first.public["formulas"] == 30
    assert 0 < first.se["decisions"] < first.metrics["decisions"]
    clever = {"heuristic.py": (FOLDER / "reference" / "heuristic.py").read_bytes()}
    better = await graded(task, made, clever, light_python, tmp_path)
    assert 1 <= better.metrics["decisions"] < first.metrics["decisions"]
    examples = json.loads((made.public / "examples.json").read_text())
    assert (examples["n"], len(examples["formulas"][0])) == (20, 85)
