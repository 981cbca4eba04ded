"""Playing policies: one episode per slot, each to its end, none more; means with honest errors."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mlgym_mcp.grading.api import GradeContext
from mlgym_mcp.grading.errors import GraderError, InvalidSubmission
from mlgym_mcp.grading.rollouts import Episode, evaluate, idle, mean_and_error, play, score


class Countdowns:
    """Games in which slot i's episodes have ``lengths[i]`` steps; each step's reward is the action, times a factor."""

    def __init__(self, lengths: Sequence[int], factor: float = 1.0) -> None:
        self.lengths = list(lengths)
        self.left = list(lengths)
        self.factor = factor
        self.steps = 0

    def step(self, actions: Any) -> tuple[Any, Any, Any]:
        self.steps += 1
        self.left = [left - 1 for left in self.left]
        done = [left == 0 for left in self.left]
        self.left = [length if end else left for length, left, end in zip(self.lengths, self.left, done, strict=True)]
        rewards = array("d", [self.factor * action for action in actions])
        return array("B", self.left), rewards, array("B", done)


class Fake:
    """A player whose every action is 1; it notes what it is asked."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.seen: list[tuple[bytes, bytes]] = []
        self.fail_at = fail_at

    def load(self, index: int) -> None:
        self.asked.append(("load", index))

    def reset(self, slots: int) -> None:
        self.asked.append(("reset", slots))

    def act(self, observations: bytes, done: bytes) -> bytes:
        if len(self.seen) == self.fail_at:
            raise InvalidSubmission("crash", "no more")
        self.seen.append((observations, done))
        return b"\1" * len(done)


def played(player: Fake, lengths: Sequence[int], **options: Any) -> list[list[Episode]]:
    def begin(index: int) -> tuple[Countdowns, Any]:
        return Countdowns(lengths, factor=index + 1), array("B", lengths)

    options = {"checkpoints": 1, "horizon": 9} | options
    return play(player, begin, list, slots=len(lengths), **options)  # type: ignore[arg-type]


def test_every_slot_plays_one_episode_to_its_end_and_short_ones_count_once() -> None:
    player = Fake()
    assert played(player, [1, 3, 7]) == [[Episode(1.0, 1), Episode(3.0, 3), Episode(7.0, 7)]]
    assert len(player.seen) == 7  # nothing is played once the longest has ended


def test_every_checkpoint_is_loaded_once_and_plays_its_own_games() -> None:
    player = Fake()
    episodes = played(player, [2, 4], checkpoints=3)
    assert [[episode.total for episode in one] for one in episodes] == [[2, 4], [4, 8], [6, 12]]
    assert player.asked == [step for index in range(3) for step in (("load", index), ("reset", 2))]


def test_the_policy_sees_the_observations_and_where_an_episode_has_begun() -> None:
    player = Fake()
    played(player, [1, 2, 4])
    assert player.seen == [
        (bytes([1, 2, 4]), bytes([1, 1, 1])),
        (bytes([1, 1, 3]), bytes([1, 0, 0])),
        (bytes([1, 2, 2]), bytes([1, 1, 0])),
        (bytes([1, 1, 1]), bytes([1, 0, 0])),
    ]


def test_an_episode_as_long_as_the_horizon_counts_and_a_longer_one_is_the_graders_error() -> None:
    assert played(Fake(), [9, 1])[0][0] == Episode(9.0, 9)
    with pytest.raises(GraderError, match="1 of 2 episodes did not end within 9 steps"):
        played(Fake(), [10, 1])


def test_a_policy_that_fails_in_the_middle_ends_it_all() -> None:
    with pytest.raises(InvalidSubmission, match="no more"):
        played(Fake(fail_at=3), [2, 5])


def test_progress_is_told() -> None:
    told: list[tuple[float, str]] = []
    played(Fake(), [120], checkpoints=2, horizon=200, progress=lambda *words: told.append(words))
    assert [words[0] for words in told] == pytest.approx([0.125, 0.25, 0.625, 0.75])


class FakeInside(Fake):
    """The same as a context manager: what ``ctx.player`` gives."""

    closed = False

    def __enter__(self) -> FakeInside:
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True


def test_a_submission_is_played_as_the_tasks_parameters_say(tmp_path: Path) -> None:
    (tmp_path / "policy.py").write_text("")
    player, opened = FakeInside(), []
    told: list[tuple[float, str]] = []

    def open_player(*asked: Any) -> Any:
        opened.append(asked)
        return player

    def begin(index: int) -> tuple[Countdowns, Any]:
        return Countdowns([2, 60], factor=index + 1), array("B", [2, 60])

    ctx = GradeContext(
        task="toy",
        preset="mini",
        params={"checkpoints": 2, "horizon": 100},
        split="test",
        submission=tmp_path,
        public_folder=tmp_path,
        private_folder=tmp_path,
        secret=b"secret",
        open_player=open_player,
        report=lambda *words: told.append(words),
    )
    observation, action = {"dtype": "u1", "shape": []}, {"dtype": "u1", "shape": [], "lt": 2}
    episodes = evaluate(ctx, begin, list, observation=observation, action=action, slots=2)
    assert episodes == [[Episode(2.0, 2), Episode(60.0, 60)], [Episode(4.0, 2), Episode(120.0, 60)]]
    assert opened == [("policy.py", "policy", {"obs": observation, "act": action, "n": 2})]
    assert [fraction for fraction, _ in told] == [0.25, 0.75]
    assert player.closed


def test_a_score_has_the_mean_its_error_and_each_checkpoints_return() -> None:
    episodes = [[Episode(0.0, 3), Episode(2.0, 3), Episode(10.0, 3), Episode(10.0, 3)]]
    found = score(episodes, {"games": 4}, strata="aabb")
    assert found.metrics == {"return_mean": 5.5}
    assert found.se == {"return_mean": pytest.approx(0.5)}
    assert found.public == {"games": 4}
    assert found.private == {"return_by_checkpoint": [5.5]}
    several = score([*episodes, [Episode(0.5, 1)] * 4], {}, strata="aabb")
    assert several.metrics == {"return_mean": 3.0}
    assert several.se == {"return_mean": pytest.approx(2.5)}, "checkpoints differ, whatever the strata"
    assert several.private == {"return_by_checkpoint": [5.5, 0.5]}


def test_an_idle_policy_is_a_whole_submission() -> None:
    ((name, source),) = idle("float32").items()
    assert name == "policy.py"
    assert b'np.zeros(len(observations), "float32")' in source
    compile(source, name, "exec")


def test_the_error_of_one_checkpoint_is_that_of_its_episodes() -> None:
    values = [1.0, 2.0, 3.0, 6.0]
    mean, error = mean_and_error([values])
    assert mean == 3.0
    assert error == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))


def test_within_strata_only_what_differs_inside_of_them_is_error() -> None:
    assert mean_and_error([[0.0, 0.0, 10.0, 10.0]], "aabb") == (5.0, 0.0)
    mean, error = mean_and_error([[0.0, 2.0, 10.0, 10.0]], "aabb")
    assert mean == 5.5
    assert error == pytest.approx(math.sqrt(0.5**2 * 2 / 2))


def test_the_error_of_several_checkpoints_is_that_of_their_means() -> None:
    mean, error = mean_and_error([[0.0, 100.0], [54.0, 54.0], [20.0, 90.0]], "ab")
    assert mean == 53.0
    assert error == pytest.approx(math.sqrt(((50 - 53) ** 2 + 1 + (55 - 53) ** 2) / 2 / 3))


def test_more_slots_of_the_same_policy_do_not_shrink_the_error_of_checkpoints() -> None:
    few = mean_and_error([[1.0], [3.0]])
    assert mean_and_error([[1.0] * 50, [3.0] * 50]) == few == (2.0, 1.0)
