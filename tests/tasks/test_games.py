"""The games: payoffs as written, one score for one behaviour, opponents out of the player's reach, moves checked."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from mlgym_mcp.catalog import Prepared, Task, prepare
from mlgym_mcp.catalog.own_submissions import gold, own_submission
from mlgym_mcp.grading.grader_process import GradeResult
from tests.catalog.conftest import ROOT, light_python, mlgym_home  # noqa: F401 - fixtures
from tests.catalog.test_tasks import SHORT, copy_task, graded

pytestmark = pytest.mark.anyio

GAMES = ("prisoners_dilemma", "battle_of_sexes", "blotto")
FIRST = {"prisoners_dilemma": "0", "battle_of_sexes": "0", "blotto": "[20] * 6"}
"""A legal move."""
SMALLER = {
    "prisoners_dilemma": SHORT,
    "battle_of_sexes": {"matches = 2000, examples = 240, rounds_low = 27, rounds_high = 33": "matches = 60, "
                        "examples = 12, rounds_low = 5, rounds_high = 8"},
    "blotto": {"matches = 2000, examples = 300, rounds_low = 8": "matches = 60, examples = 10, rounds_low = 8"},
}  # fmt: skip


@dataclass
class Game:
    """A game with few matches, and how to play it."""

    task: Task
    python: Path
    folder: Path
    made: Prepared | None = None

    async def prepared(self) -> Prepared:
        if self.made is None:
            self.made = await prepare(self.task, "mini", python=self.python)
        return self.made

    async def play(self, strategy: str, split: str = "test") -> GradeResult:
        files = {"strategy.py": strategy.encode()}
        return await graded(self.task, await self.prepared(), files, self.python, self.folder, split)


@pytest.fixture
def game(request: pytest.FixtureRequest, light_python: Path, tmp_path: Path) -> Game:  # noqa: F811
    name = request.param
    return Game(copy_task(name, tmp_path / "tasks", SMALLER[name]), light_python, tmp_path)


every_game = pytest.mark.parametrize("game", GAMES, indirect=True)
blotto = pytest.mark.parametrize("game", ["blotto"], indirect=True)


def rules(name: str, module: str) -> ModuleType:
    """A game's rules; they need the standard library alone."""
    spec = importlib.util.spec_from_file_location(f"{name}_{module}", ROOT / "tasks" / name / f"{module}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def luck(name: str) -> random.Random:
    return random.Random(name)


# -- all of them, through the grader ------------------------------------------------------------------------------


@every_game
async def test_one_behaviour_has_one_score_on_each_split(game: Game) -> None:
    made = await game.prepared()
    plain = await own_submission("plain", game.task, made, game.python)
    assert plain is not None
    strategy = plain["strategy.py"].decode()
    first, again, other = await game.play(strategy), await game.play(strategy), await game.play(strategy, "val")
    assert first.reason is None
    assert (first.metrics, first.se) == (again.metrics, again.se)
    assert first.metrics != other.metrics, "other matches on the other split"
    assert 0 < first.se["payoff"] < 0.25
    assert await gold(game.task, made, game.python) is None


@every_game
async def test_the_baseline_is_the_starter_and_has_a_seed(game: Game) -> None:
    baseline = game.task.solution("baseline")
    assert baseline.command is None
    assert baseline.files == game.task.starter()
    strategy = baseline.files["strategy.py"].read_text()
    first, again = await game.play(strategy), await game.play(strategy)
    assert first.reason is None
    assert first.metrics == again.metrics


@every_game
async def test_a_player_cannot_reach_its_opponents_luck(game: Game) -> None:
    move = FIRST[game.task.id]
    honest = await game.play(f"def move(history):\n    return {move}\n")
    assert honest.reason is None
    for trick in (
        "random.seed(0)",
        "random.random = random.Random.random = lambda *_: 0.0",
        "random.Random.shuffle = random.Random.randint = lambda *_: 1",
        "history.clear()",
    ):
        program = f"import random\nhistory = []\n{trick}\ndef move(history):\n    {trick}\n    return {move}\n"
        assert (await game.play(program)).metrics == honest.metrics, trick


@every_game
async def test_recorded_matches_show_moves_and_no_names(game: Game) -> None:
    made = await game.prepared()
    lines = (made.public / "matches.jsonl").read_text().splitlines()
    params = game.task.preset("mini").params
    for line in lines:
        match = json.loads(line)
        assert set(match) == {"rounds"}
        assert int(params["rounds_low"]) <= len(match["rounds"]) <= int(params["rounds_high"])
        moves = [move for pair in match["rounds"] for move in pair]
        if game.task.id == "blotto":
            assert all(len(move) == 6 and min(move) >= 0 and sum(move) == 120 for move in moves)
        else:
            assert set(moves) <= {0, 1}
    assert len(lines) == int(params.get("examples", 22))
    assert len(set(lines)) > 1


# -- moves --------------------------------------------------------------------------------------------------------


@blotto
@pytest.mark.parametrize(
    ("move", "sentence"),
    [
        ("[21, 20, 20, 20, 20, 20]", "at most 120 soldiers in all"),
        ("[120, 1, 0, 0, 0, 0]", "at most 120 soldiers in all"),
        ("[-1, 30, 30, 30, 30, 1]", "between 0 and 120"),
        ("[121, 0, 0, 0, 0, 0]", "between 0 and 120"),
        ("[24] * 5", "a list of 6 integers"),
        ("[10] * 7", "a list of 6 integers"),
        ("[]", "a list of 6 integers"),
        ("20", "a list of 6 integers"),
        ("[20.0] * 6", "out of range"),
        ("[20, 20, 20, 20, 20, 20.0]", "out of range"),
        ("['20'] * 6", "out of range"),
        ("[None] * 6", "out of range"),
        ("[float('nan')] * 6", "out of range"),
    ],
)
async def test_an_allocation_that_breaks_the_rules_is_refused(game: Game, move: str, sentence: str) -> None:
    late = f"def move(history):\n    return [20] * 6 if len(history) < 3 else {move}\n"
    result = await game.play(late)
    assert result.reason_code == "range"
    assert result.reason is not None
    assert sentence in result.reason
    assert not result.metrics


@blotto
async def test_soldiers_may_stay_at_home_and_truth_values_are_numbers_to_python(game: Game) -> None:
    home = await game.play("def move(history):\n    return [0] * 6\n")
    assert home.metrics["payoff"] < -0.9
    assert home.public["lost"] > 0.9
    tuples = await game.play("def move(history):\n    return (True, 32, 29, 29, 28, True)\n")
    lists = await game.play("def move(history):\n    return [1, 32, 29, 29, 28, 1]\n")
    assert tuples.metrics == lists.metrics
    assert lists.metrics["payoff"] > 0.3


@blotto
async def test_a_strategy_is_told_both_allocations(game: Game) -> None:
    program = """
def move(history):
    for number, (mine, theirs) in enumerate(history):
        assert mine == [number, 20, 20, 20, 20, 20], mine
        assert len(theirs) == 6 and sum(theirs) == 120 and min(theirs) >= 0, theirs
    return [len(history), 20, 20, 20, 20, 20]
"""
    assert (await game.play(program)).reason is None


# -- the rules themselves -----------------------------------------------------------------------------------------


def written_payoffs(name: str) -> list[list[int]]:
    """The table of the instruction: the player's points by (player's move, other's move)."""
    rows = [
        line.strip("|").split("|")
        for line in (ROOT / "tasks" / name / "instruction.md").read_text().splitlines()
        if line.startswith("| you ") and "/" not in line
    ]
    return [[int(cell) for cell in row[1:]] for row in rows]


def test_the_dilemma_pays_as_written() -> None:
    game = rules("prisoners_dilemma", "opponents")
    written = written_payoffs("prisoners_dilemma")
    assert [list(row) for row in game.PAYOFF] == written == [[3, 0], [5, 1]]
    for rule, move in itertools.product(range(len(game.RULES)), (0, 1)):
        match = game.Match(luck("one"), rule=rule, rounds=20, noise=0.1)
        points = 0
        while not match.over():
            mine, theirs = match.play(move)
            points += written[mine][theirs]
        assert match.points == points
        assert match.mean() == points / 20


def test_the_sexes_are_paid_as_written() -> None:
    game = rules("battle_of_sexes", "partners")
    written = written_payoffs("battle_of_sexes")
    assert [list(row) for row in game.PAYOFF] == written == [[2, 0], [0, 1]]
    for kind, move in itertools.product(game.KINDS, (0, 1)):
        match = game.Match(luck("one"), kind=kind, bias=0.9, rounds=30)
        points = 0
        while not match.over():
            mine, theirs = match.play(move)
            assert mine == move
            points += written[mine][theirs]
        assert match.points == points


@pytest.mark.parametrize(
    ("ours", "theirs", "result"),
    [
        ([20] * 6, [20] * 6, 0),
        ([0, 24, 24, 24, 24, 24], [20] * 6, 1),
        ([20] * 6, [0, 24, 24, 24, 24, 24], -1),
        ([40, 40, 40, 0, 0, 0], [0, 0, 0, 40, 40, 40], 0),
        ([120, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], 1),
        ([21, 21, 20, 20, 19, 19], [20] * 6, 0),
        ([0] * 6, [120, 0, 0, 0, 0, 0], -1),
    ],
)
def test_more_fields_win_a_round(ours: list[int], theirs: list[int], result: int) -> None:
    game = rules("blotto", "commanders")
    assert game.result(ours, theirs) == result
    assert game.result(theirs, ours) == -result


def test_every_commander_places_all_its_soldiers() -> None:
    game = rules("blotto", "commanders")
    for style in game.STYLES:
        match = game.Match(luck(style.__name__), style=style, sharpness=1.0, rounds=200)
        while not match.over():
            _, placed = match.play([20] * 6)
            assert len(placed) == 6
            assert sum(placed) == 120
            assert min(placed) >= 0


def test_faithful_partners_follow_their_rules() -> None:
    game = rules("battle_of_sexes", "partners")
    mine = [0, 0, 1, 0, 1, 1]
    expected = {
        "follower": [1, 0, 0, 0, 0, 0],
        "stubborn": [1, 1, 1, 1, 1, 1],
        "copier": [1, 0, 0, 1, 0, 1],
        "alternator": [1, 0, 1, 0, 1, 0],
        "learner": [1, 0, 0, 1, 0, 1],
        "switcher": [1, 0, 0, 1, 0, 1],
    }
    for kind in game.KINDS:
        match = game.Match(luck("any"), kind=kind, bias=1.0, rounds=len(mine))
        assert [match.play(move)[1] for move in mine] == expected[kind.__name__], kind.__name__


def test_luck_does_not_depend_on_what_is_played() -> None:
    dilemma, sexes, game = (
        rules("prisoners_dilemma", "opponents"),
        rules("battle_of_sexes", "partners"),
        rules("blotto", "commanders"),
    )
    for style in game.STYLES:
        theirs = []
        for mine in ([20] * 6, [0, 0, 0, 0, 0, 120]):
            match = game.Match(luck("same"), style=style, sharpness=1.0, rounds=10)
            theirs.append([match.play(mine)[1] for _ in range(10)])
        assert theirs[0] == theirs[1]
    coins = [dilemma.Match(luck("same"), rule=dilemma.RULES.index(dilemma.coin), rounds=40, noise=0.0) for _ in "ab"]
    assert [coins[0].play(0)[1] for _ in range(40)] == [coins[1].play(1)[1] for _ in range(40)]
    firm = [sexes.Match(luck("same"), kind=sexes.stubborn, bias=0.8, rounds=40) for _ in "ab"]
    assert [firm[0].play(0)[1] for _ in range(40)] == [firm[1].play(1)[1] for _ in range(40)]


def test_no_order_tells_the_opponents() -> None:
    """Matches are asked about in their order: who counts calls must not learn who is met again."""
    dilemma, sexes, game = (
        rules("prisoners_dilemma", "opponents"),
        rules("battle_of_sexes", "partners"),
        rules("blotto", "commanders"),
    )
    short = {"rounds_low": 1, "rounds_high": 2, "paper": False, "matches_per_rule": 40}
    shared = {"share": [0.3, 0.25, 0.2, 0.1, 0.1, 0.05], "bias": [0.85] * 6, "sharpness": [1.0] * 5}
    orders = [
        [match.rule for match in dilemma.schedule(short, 0.0, luck)],
        [match.kind for match in sexes.schedule(300, short, shared, luck)],
        [match.style for match in game.schedule(300, short, shared | {"share": [0.2] * 5}, luck)],
    ]
    for order in orders:
        chance = sum((count / len(order)) ** 2 for count in Counter(order).values())
        for period in range(1, 13):
            same = sum(a == b for a, b in zip(order, order[period:], strict=False)) / (len(order) - period)
            assert abs(same - chance) < 0.12, f"every {period}th match is alike"


def test_each_kind_has_its_share_of_the_matches() -> None:
    for module in (rules("battle_of_sexes", "partners"), rules("blotto", "commanders")):
        for count in (1, 7, 100, 2000):
            world = module.draw_world(luck(str(count)))
            assert sum(world["share"]) == pytest.approx(1.0)
            times = Counter(module.portions(count, world["share"]))
            assert sum(times.values()) == count
            assert all(abs(times[kind] - count * share) < 1 for kind, share in enumerate(world["share"]))
