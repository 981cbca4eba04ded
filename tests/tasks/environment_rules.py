"""What the environments of the reinforcement-learning tasks must do: run by the light environment, which has NumPy.

``python environment_rules.py`` plays all rules and prints ``{name: traceback or null}`` as JSON; see
``test_environments.py``.
"""

from __future__ import annotations

import importlib.util
import json
import math
import random
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

TASKS = Path(__file__).parents[2] / "tasks"
NAMES = ("breakout", "mountain_car", "metamaze")
RULES: list[Callable[[], None]] = []


def rule(function: Callable[[], None]) -> Callable[[], None]:
    """Note a function as one of the rules."""
    RULES.append(function)
    return function


def public(task: str, name: str) -> ModuleType:
    """A module of a task's starter, under a name of its own."""
    path = TASKS / task / "starter" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{task}_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


breakout, mountain_car, metamaze = (public(name, name) for name in NAMES)
STAY, LEFT, RIGHT = 0, 1, 2
UP, EAST, DOWN, WEST = 0, 1, 2, 3


# -- Breakout ----------------------------------------------------------------------------------------------------


def game(left: bool = True, n: int = 1, **options: Any) -> Any:
    """Games that begin with the ball at the left or the right edge."""
    games = breakout.Breakout(n, 0, **options)
    games.reset([left] * n)
    return games


def put(games: Any, *, ball: tuple[int, int], moving: tuple[int, int], paddle: int = 0) -> Any:
    """Set the one game's ball (row, column), its direction (down, right) and the paddle."""
    games.row[0], games.column[0] = ball
    games.fall[0], games.side[0] = moving
    games.paddle[0] = paddle
    return games


def where(games: Any) -> tuple[int, int]:
    return int(games.row[0]), int(games.column[0])


def heading(games: Any) -> tuple[int, int]:
    return int(games.fall[0]), int(games.side[0])


@rule
def a_game_begins_with_three_full_rows_the_paddle_in_the_middle_and_the_ball_at_an_edge() -> None:
    for left, column, side in ((True, 0, 1), (False, 9, -1)):
        games = game(left)
        seen = games.observe()[0]
        assert seen.shape == (10, 10, 4)
        assert seen.dtype == np.uint8
        assert np.argwhere(seen[..., breakout.PADDLE]).tolist() == [[9, 4]]
        assert np.argwhere(seen[..., breakout.BALL]).tolist() == [[3, column]]
        assert np.argwhere(seen[..., breakout.TRAIL]).tolist() == [[3, column]]
        assert seen[1:4, :, breakout.BRICK].all()
        assert seen[..., breakout.BRICK].sum() == 30
        assert heading(games) == (1, side)


@rule
def the_ball_moves_on_its_diagonal_and_leaves_a_trail() -> None:
    games = game()
    seen, rewards, done = games.step([STAY])
    assert where(games) == (4, 1)
    assert np.argwhere(seen[0, ..., breakout.TRAIL]).tolist() == [[3, 0]]
    assert rewards.tolist() == [0]
    assert not done[0]


@rule
def the_paddle_moves_by_one_and_stops_at_the_walls() -> None:
    games = put(game(), ball=(5, 5), moving=(-1, 1), paddle=8)
    for action, expected in ((RIGHT, 9), (RIGHT, 9), (STAY, 9), (LEFT, 8)):
        put(games, ball=(6, 5), moving=(-1, 1), paddle=int(games.paddle[0])).step([action])
        assert games.paddle[0] == expected
    put(games, ball=(6, 5), moving=(-1, 1), paddle=0).step([LEFT])
    assert games.paddle[0] == 0


@rule
def a_wall_turns_the_ball_sideways() -> None:
    games = put(game(), ball=(5, 9), moving=(1, 1))
    games.step([STAY])
    assert where(games) == (6, 9)
    assert heading(games) == (1, -1)


@rule
def the_ceiling_turns_the_ball_downwards() -> None:
    games = put(game(), ball=(0, 4), moving=(-1, 1))
    games.step([STAY])
    assert where(games) == (0, 5)
    assert heading(games) == (1, 1)


@rule
def a_brick_is_one_point_and_turns_the_ball_which_moves_only_sideways() -> None:
    games = put(game(), ball=(4, 4), moving=(-1, 1))
    seen, rewards, done = games.step([STAY])
    assert rewards.tolist() == [1]
    assert not done[0]
    assert seen[0, 3, 5, breakout.BRICK] == 0
    assert seen[..., breakout.BRICK].sum() == 29
    assert where(games) == (4, 5)
    assert heading(games) == (1, 1)


@rule
def a_paddle_straight_below_turns_the_ball_upwards() -> None:
    games = put(game(), ball=(8, 4), moving=(1, 1), paddle=4)
    _, _, done = games.step([STAY])
    assert not done[0]
    assert where(games) == (8, 5)
    assert heading(games) == (-1, 1)


@rule
def a_paddle_on_the_diagonal_turns_the_ball_upwards_and_sideways() -> None:
    games = put(game(), ball=(8, 4), moving=(1, 1), paddle=4)
    _, _, done = games.step([RIGHT])  # the paddle moves before the ball
    assert not done[0]
    assert where(games) == (8, 5)
    assert heading(games) == (-1, -1)


@rule
def without_the_paddle_the_game_is_over_and_the_next_one_begins() -> None:
    games = put(game(), ball=(8, 4), moving=(1, 1), paddle=7)
    games.bricks[0, 3] = False
    seen, rewards, done = games.step([STAY])
    assert done.tolist() == [True]
    assert rewards.tolist() == [0]
    assert seen[0, ..., breakout.BRICK].sum() == 30
    assert games.row[0] == 3
    assert games.paddle[0] == 4


@rule
def new_bricks_appear_when_all_are_gone_and_the_ball_is_down_again() -> None:
    games = put(game(), ball=(4, 4), moving=(-1, 1), paddle=4)
    games.bricks[0] = False
    games.bricks[0, 3, 5] = True
    _, rewards, _ = games.step([STAY])
    assert rewards.tolist() == [1]
    assert not games.bricks.any()
    put(games, ball=(8, 4), moving=(1, 1), paddle=4).step([STAY])
    assert games.bricks[0, 1:4].all()


@rule
def a_game_ends_at_the_horizon_exactly() -> None:
    games = game(n=3, horizon=5)
    ends = [games.step([STAY] * 3)[2].tolist() for _ in range(10)]
    assert ends == [[step in (4, 9)] * 3 for step in range(10)]


@rule
def following_the_ball_never_loses() -> None:
    games = game(n=2)
    total = np.zeros(2)
    for step in range(1000):
        aim = games.column - games.paddle
        _, rewards, done = games.step(np.where(aim < 0, LEFT, np.where(aim > 0, RIGHT, STAY)))
        total += rewards
        assert done.all() == (step == 999)
    assert total.tolist() == [84, 84]


@rule
def sticky_actions_repeat_the_action_that_was_carried_out_last() -> None:
    games = game(n=1000, sticky=0.5)
    games.step(np.full(1000, RIGHT))
    moved = games.paddle == 5
    assert 400 < moved.sum() < 600  # the action before the first one counts as staying
    games.step(np.full(1000, STAY))
    assert 150 < (games.paddle[moved] == 6).sum() < 350
    assert (games.paddle[~moved] == 4).all()


# -- Mountain car ------------------------------------------------------------------------------------------------


def drive(position: float, speed: float, action: float) -> tuple[float, float, float, bool]:
    """One step of one car, written down again from the equations."""
    action = max(-1.0, min(1.0, action))
    speed = max(-0.07, min(0.07, speed + 0.0015 * action - 0.0025 * math.cos(3 * position)))
    position = max(-1.2, min(0.6, position + speed))
    if position == -1.2 and speed < 0:
        speed = 0.0
    arrived = position >= 0.45 and speed >= 0
    return position, speed, (100.0 if arrived else 0.0) - 0.1 * action**2, arrived


@rule
def cars_move_step_for_step_as_the_equations_say() -> None:
    for gain in (0.0, 1.0, 40.0, -40.0, 1e9):
        arrivals = compared_with_single_cars(gain)
        assert (arrivals > 8) == (gain >= 40), (gain, arrivals)


def compared_with_single_cars(gain: float) -> int:
    """Drive cars whose power is ``gain`` times their speed, and some noise; returns how often one arrived."""
    rng = random.Random(1)
    cars = mountain_car.MountainCar(8, 5)
    cars.reset()
    single = [(float(p), float(v)) for p, v in zip(cars.position, cars.speed, strict=True)]
    assert all(-0.6 <= p <= -0.4 and v == 0 for p, v in single)
    arrivals = 0
    for _ in range(998):
        actions = [gain * speed + rng.uniform(-0.5, 0.5) for _, speed in single]
        seen, rewards, done = cars.step(actions)
        for slot, action in enumerate(actions):
            position, speed, reward, arrived = drive(*single[slot], action)
            assert math.isclose(rewards[slot], reward, abs_tol=1e-12)
            assert bool(done[slot]) == arrived
            now = float(cars.position[slot]), float(cars.speed[slot])
            if arrived:
                arrivals += 1
                assert -0.6 <= now[0] <= -0.4
                assert now[1] == 0
            else:
                assert math.isclose(now[0], position, abs_tol=1e-9)
                assert math.isclose(now[1], speed, abs_tol=1e-9)
            single[slot] = now
        assert seen.dtype == np.float32
        assert seen.tolist() == np.array(single, np.float32).tolist()
    return arrivals


@rule
def an_action_is_clipped_before_its_cost() -> None:
    cars = mountain_car.MountainCar(3, 0)
    cars.reset()
    assert cars.step([1e30, -1e30, 2.0])[1].tolist() == [-0.1] * 3


@rule
def an_idle_car_gets_nothing_and_ends_at_the_horizon_exactly() -> None:
    cars = mountain_car.MountainCar(4, 0)
    cars.reset()
    for step in range(1, 1000):
        _, rewards, done = cars.step(np.zeros(4))
        assert rewards.tolist() == [0.0] * 4
        assert done.tolist() == [step == 999] * 4


# -- Maze --------------------------------------------------------------------------------------------------------


def maze(goal: tuple[int, int], **options: Any) -> Any:
    """One maze with its goal at (row, column)."""
    mazes = metamaze.MetaMaze(1, 0, **options)
    mazes.reset([metamaze.CELLS.tolist().index([goal[0] + 1, goal[1] + 1])])
    return mazes


def cell(mazes: Any) -> tuple[int, int]:
    return int(mazes.position[0, 0]) - 1, int(mazes.position[0, 1]) - 1


@rule
def the_maze_has_65_cells_and_pillars_where_row_and_column_are_odd() -> None:
    cells = {(row - 1, column - 1) for row, column in metamaze.CELLS.tolist()}
    assert cells == {(r, c) for r in range(9) for c in range(9) if not (r % 2 and c % 2)}
    assert len(metamaze.CELLS) == 65


@rule
def an_episode_begins_in_the_middle_with_nothing_remembered() -> None:
    mazes = maze((0, 0))
    assert cell(mazes) == (4, 4)
    walls = [1, 0, 1, 0, 0, 0, 1, 0, 1]
    assert mazes.observe().tolist() == [[*walls, 0, 0, 0, 0, 0, 0]]
    assert mazes.observe().dtype == np.float32


@rule
def an_observation_tells_walls_last_action_last_reward_and_time() -> None:
    mazes = maze((4, 6))
    seen, _, _ = mazes.step([EAST])
    assert seen.tolist() == [[0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1]]
    seen, rewards, _ = mazes.step([EAST])
    assert rewards.tolist() == [10]
    assert seen[0, 9:].tolist() == [0, 1, 0, 0, 10, 2]


@rule
def walls_and_pillars_stop_the_agent() -> None:
    mazes = maze((0, 0))
    mazes.step([EAST])
    for action in (UP, DOWN):
        mazes.step([action])
        assert cell(mazes) == (4, 5)
    for _ in range(9):
        mazes.step([EAST])
    assert cell(mazes) == (4, 8)


@rule
def reaching_the_goal_is_ten_and_moves_the_agent_but_not_the_goal() -> None:
    mazes = maze((4, 5))
    landed = set()
    for _ in range(150):
        mazes.position[0] = 5, 5
        _, rewards, done = mazes.step([EAST])
        assert rewards.tolist() == [10]
        assert not done[0]
        landed.add(cell(mazes))
    assert len(landed) > 50
    assert (mazes.goal[0] - 1).tolist() == [4, 5]


@rule
def landing_on_the_goal_earns_nothing_and_ends_nothing() -> None:
    mazes = maze((0, 1))
    mazes.position[0] = 1, 2  # on the goal, as if moved there
    _, rewards, done = mazes.step([WEST])
    assert rewards.tolist() == [0]
    assert not done[0]
    assert cell(mazes) == (0, 0)


@rule
def episodes_have_exactly_200_steps_and_then_new_goals() -> None:
    mazes = metamaze.MetaMaze(500, 3)
    mazes.reset()
    first = mazes.goal.copy()
    for step in range(1, 201):
        seen, _, done = mazes.step(np.full(500, UP))
        assert done.all() == done.any() == (step == 200)
    assert (mazes.goal == first).all(1).mean() < 0.1
    assert (seen[:, 9:] == 0).all()


# -- all ---------------------------------------------------------------------------------------------------------


@rule
def the_same_seed_gives_the_same_episodes_and_another_one_others() -> None:
    for make, action in (
        (breakout.Breakout, [RIGHT] * 16),
        (mountain_car.MountainCar, [1.0] * 16),
        (metamaze.MetaMaze, [UP] * 16),
    ):

        def played(seed: int, make: Any = make, action: list[Any] = action) -> list[Any]:
            games = make(16, seed)
            return [games.reset().tolist(), *(games.step(action)[0].tolist() for _ in range(300))]

        assert played(1) == played(1)
        assert played(1) != played(2)


def verdict(function: Callable[[], None]) -> str | None:
    """What is wrong, if anything."""
    try:
        function()
    except Exception:
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    print(json.dumps({function.__name__: verdict(function) for function in RULES}))
