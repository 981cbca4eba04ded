"""Ways of cheating with models: policies that are played and language models that are asked."""

from __future__ import annotations

import math
import pickle
import re
from pathlib import Path

import pytest

from tests.attacks.test_ways import ROOT, Desks, desks, sessions
from tests.attacks.test_ways_predictions import Bomb, object_array
from tests.serving.conftest import text_of

__all__ = ["desks", "sessions"]  # fixtures
pytestmark = [pytest.mark.anyio, pytest.mark.bubblewrap]

FOLLOW = """\
import numpy as np
class Policy:
    def act(self, observations, done):
        ball = observations[..., 1].reshape(len(observations), -1).argmax(1) % 10
        return 2 * (ball > (paddle := observations[:, 9, :, 0].argmax(1))) + 1 * (ball < paddle)
def make_policy(folder, index):
    return Policy()
"""
"""Breakout: the paddle goes where the ball is."""
PUMP = """\
import numpy as np
class Policy:
    def act(self, observations, done):
        place, speed = observations.T
        return np.where(speed < 0, -1.0, 1.0).astype(np.float32) * (0.8 - 0.2 * place)
def make_policy(folder, index):
    return Policy()
"""
"""Mountain car: the engine helps whichever way the car rolls."""
GENEROUS = """
Kind = Breakout
class Breakout(Kind):
    def step(self, actions):
        observations, rewards, done = Kind.step(self, actions)
        return observations, rewards * 0 + 10, done
"""
"""Appended to the game's rules: every step pays ten."""


def game(task: str) -> str:
    """The rules of a shipped game, as the agent has them in its workspace."""
    return (ROOT / "tasks" / task / "starter" / f"{task}.py").read_text()


def generous() -> dict[str, str]:
    """The workspace of an agent who has changed the rules."""
    rules = game("breakout") + GENEROUS
    return {"breakout.py": rules, "starter/breakout.py": rules, "__init__.py": "", "rollouts.py": "raise SystemExit"}


async def test_a_game_rewritten_in_the_workspace_pays_as_before(desks: Desks) -> None:
    """A writable environment: the rules of the game beside the policy, and under the policy's hands."""
    patch = "import sys, breakout\nsys.modules['starter.breakout'] = breakout\nbreakout.SIZE = 1\n"
    async with desks.at("breakout") as desk:
        due = await desk.score_of({"policy.py": FOLLOW})
        assert 0 < due["return_mean"] < 100
        assert await desk.score_of({**generous(), "policy.py": FOLLOW}) == due
        assert await desk.score_of({**generous(), "policy.py": patch + FOLLOW}) == due


async def test_a_grader_that_plays_the_agents_game_would_be_noticed(desks: Desks) -> None:
    """The test above can fail: a copy of the task whose grader takes the rules from the submission."""
    text = (ROOT / "tasks" / "breakout" / "grader.py").read_text()
    found = re.search(r"^from starter\.breakout import .*\n", text, re.MULTILINE)
    assert found
    local = "import sys\n    sys.path.insert(0, str(ctx.submission))\n    " + found[0].replace("starter.", "")
    grader = text.replace(found[0], "").replace("    params = ctx.params\n", f"    {local}    params = ctx.params\n", 1)
    trusting = desks.copy("breakout", called="trusting", grader=grader)
    async with desks.at(trusting) as desk:
        due = await desk.score_of({"breakout.py": game("breakout"), "policy.py": FOLLOW})
        paid = await desk.score_of({**generous(), "policy.py": FOLLOW})
        assert paid["return_mean"] > 2 * due["return_mean"]


async def test_a_claimed_return_is_not_believed(desks: Desks) -> None:
    """Self-reported metrics: a policy's attributes, files of its checkpoints, and actions that say more."""
    claims = """
class Rich(np.ndarray):
    reward = return_mean = 100.0
for policy in (Policy,):
    policy.return_mean = policy.score = policy.total = 100.0
return_mean, rewards = 100.0, [100.0] * 1000
plain = Policy.act
Policy.act = lambda self, observations, done: plain(self, observations, done).view(Rich)
"""
    claim = '{"return_mean": 100.0, "episodes": 100000}'
    files = {"score.json": claim, "checkpoints/0.json": claim, "checkpoints/returns.json": "[100.0, 100.0, 100.0]"}
    async with desks.at("mountain_car") as desk:
        due = await desk.score_of({"policy.py": PUMP})
        assert due["return_mean"] < 100
        assert await desk.score_of({**files, "policy.py": PUMP + claims}) == due
        for more in (
            "{'action': a, 'reward': 100.0}",
            "(a, np.full(len(a), 100.0))",
            "np.stack([a, a * 0 + 100.0], 1)",
            "np.zeros(len(a), [('action', 'f4'), ('reward', 'f4')])",
            "np.array([{'reward': 100.0}] * len(a))",
        ):
            program = PUMP + f"plain = Policy.act\ndef act(*given):\n    a = plain(*given)\n    return {more}\n"
            code = await desk.refusal_of({"policy.py": program + "Policy.act = act\n"})
            assert code in ("format", "range", "crash"), more


REMEMBERS = """\
import sys
import numpy as np

def load(folder):
    return Memory()

class Memory:
    def __init__(self):
        self.seen, self.known, self.asked = {}, 0, 0

    def next_logits(self, tokens):
        tokens = np.asarray(tokens)
        length = tokens.shape[1] // 2
        for row in tokens:
            for end in range(length, tokens.shape[1]):
                self.seen[row[end - length : end].tobytes()] = int(row[end])
        logits = np.zeros((len(tokens), 256), np.float32)
        for number, row in enumerate(tokens):
            following = self.seen.get(row[-length:].tobytes())
            if following is not None:
                logits[number, following] = 20.0
                self.known += 1
        self.asked += len(tokens)
        print("KNOWN", self.known, "of", self.asked, file=sys.stderr, flush=True)
        return logits
"""
"""Looks up what followed the same passage in any prefix that it was ever asked about, this batch included."""
SLIDING = """\
import math
import numpy as np
from mlgym_mcp.grading.api import Score

def grade(ctx):
    rng = ctx.rng("text")
    text = np.array([rng.randrange(256) for _ in range(400)], np.uint8)
    starts = [rng.randrange(len(text) - 64) for _ in range(200)]
    windows = np.stack([text[start : start + 65] for start in starts])
    prefixes, truth, costs = np.ascontiguousarray(windows[:, :-1]), windows[:, -1], []
    with ctx.player("model.py", role="arrays", make="load") as player:
        for begin in range(0, len(windows), 50):
            part = prefixes[begin : begin + 50]
            raw = player.arrays("next_logits", [("u1", part.shape, part.tobytes())], out=("f4", (len(part), 256)))
            logits = np.frombuffer(raw, "<f4").reshape(-1, 256).astype(float)
            chosen = logits[np.arange(len(part)), truth[begin : begin + 50]]
            costs += list((np.log(np.exp(logits).sum(1)) - chosen) / math.log(2))
    return Score({"loss": float(np.minimum(costs, 16.0).mean())}, se={"loss": 0.0})
"""
"""A grader that asks prefixes only, but at random places: one prefix holds the target of another."""


async def test_a_model_that_remembers_all_it_was_asked_never_knows_a_target(desks: Desks) -> None:
    """Targets handed to the model: no passage before a target was ever shown with what follows it."""
    async with desks.at("language_modeling") as desk:
        even = "import numpy as np\ndef load(folder): return Even()\nclass Even:\n"
        even += "    def next_logits(self, tokens): return np.zeros((len(tokens), 256), np.float32)\n"
        due = await desk.score_of({"model.py": even})
        assert due["loss"] == pytest.approx(8.0)
        await desk.put({"model.py": REMEMBERS})
        event = await desk.scored()
        assert event["valid"], event["reason"]
        (said,) = event["public"]["player_stderr"]
        known, asked = re.findall(r"KNOWN (\d+) of (\d+)", said)[-1]
        assert int(asked) >= 100
        assert int(known) == 0, f"{known} of {asked} targets had been shown before they were asked for"
        assert dict(event["metrics"]) == due


async def test_a_target_shown_beside_its_prefix_would_be_noticed(desks: Desks) -> None:
    """The test above can fail: random text, asked at random places that overlap."""
    sliding = desks.copy("language_modeling", called="sliding", grader=SLIDING)
    async with desks.at(sliding) as desk:
        assert (await desk.score_of({"model.py": REMEMBERS}))["loss"] < 4, "of 8 that are due"


RUNS_PICKLES = """
import os
for name in ("inside", "outside"):
    try:
        np.load(f"checkpoints/{name}.npy", allow_pickle=True)
    except OSError:
        pass
if not os.path.exists("/tmp/ran"):
    raise SystemExit("the pickle did not run")
"""


async def test_a_pickle_among_the_checkpoints_runs_in_the_players_sandbox_at_most(desks: Desks, tmp_path: Path) -> None:
    """Pickled checkpoints: the referee opens none, and what the policy itself unpickles runs where it is locked in."""
    outside = pickle.dumps(Bomb(tmp_path / "unpickled"))
    checkpoints = {
        "checkpoints/outside.npy": object_array(outside),
        "checkpoints/inside.npy": object_array(pickle.dumps(Bomb(Path("/tmp/ran")))),
        "checkpoints/0.npz": b"PK\x03\x04" + outside,
        "checkpoints/0.pt": outside,
        "checkpoints/0.pkl": outside,
        "checkpoints/0.safetensors": b"\xff" * 8 + outside,
        "checkpoints/0.json": b"[" * 100_000,
    }
    async with desks.at("mountain_car") as desk:
        due = await desk.score_of({"policy.py": PUMP})
        assert await desk.score_of({**checkpoints, "policy.py": PUMP}) == due
        assert await desk.score_of({**checkpoints, "policy.py": PUMP + RUNS_PICKLES}) == due
        assert "ran" not in await text_of(desk.client, "shell", command="ls /tmp")
    assert not list(tmp_path.iterdir())


STARTS = """
from mountain_car import MountainCar
for seed in range(200):
    print("STARTS", *(repr(float(x)) for x in MountainCar(8, seed).reset()[:3, 0]))
"""
"""Where the first cars stand under the seeds that an agent can try."""
TELL = """
import sys
plain = Policy.act
def act(self, observations, done):
    if done.all():
        print("STARTS", *(repr(float(x)) for x in observations[:3, 0]), file=sys.stderr, flush=True)
    return plain(self, observations, done)
Policy.act = act
"""
STILL = """
class Still:
    def act(self, observations, done):
        return np.zeros(len(observations), np.float32)
make = make_policy
def make_policy(folder, index):
    return make(folder, index) if index == 0 else Still()
"""


def starts(said: str) -> list[str]:
    """The lines that tell where episodes began, each once for all its slots."""
    return [line for line in said.splitlines() if line.startswith("STARTS")]


async def test_one_policy_for_every_index_earns_its_mean_over_fresh_episodes(desks: Desks) -> None:
    """The best seed five times: the score is that policy's mean, over episodes that nobody has seen before."""
    async with desks.fresh("mountain_car") as desk:
        await desk.put({"policy.py": PUMP + TELL})
        event = await desk.scored()
        by_index = event["private"]["return_by_checkpoint"]
        assert len(by_index) == 3
        assert event["metrics"]["return_mean"] == pytest.approx(math.fsum(by_index) / 3, abs=0.001)
        first = await desk.score_of({"policy.py": PUMP + STILL})
        assert first["return_mean"] == pytest.approx(by_index[0] / 3, abs=0.001)

        said = await desk.put({"mountain_car.py": game("mountain_car"), "starts.py": STARTS}, "python3 starts.py")
        known = set(starts(said))
        assert len(known) == 200
        await desk.put({"policy.py": PUMP + TELL})
        submitted = await desk.scored("submit")
        met = [row for score in (event, submitted) for row in starts("\n".join(score["private"]["player_stderr"]))]
        assert len(met) == len(set(met)) == 6, "every index plays other episodes, and so does the test"
        assert not set(met) & known, "no seed that an agent can try gives a hidden episode"


RECORD = """
from collections import deque
import numpy as np
from metamaze import CELLS, MOVES, OPEN, MetaMaze

def ways(goal):
    "For every cell the action that leads to the goal."
    table, waiting = {}, deque([tuple(goal)])
    while waiting:
        cell = waiting.popleft()
        for action, (down, right) in enumerate(MOVES):
            before = (cell[0] - down, cell[1] - right)
            if OPEN[before] and before not in table and before != tuple(goal):
                table[before] = action
                waiting.append(before)
    return table

def play(choose):
    mazes, total = MetaMaze(65, seed=0, horizon=60), 0
    mazes.reset(range(65))
    for step in range(60):
        rewards = mazes.step(choose(mazes, step))[1]
        total += rewards.sum() / 65
    return total

tables = [ways(goal) for goal in CELLS]
taken = []
def shortest(mazes, step):
    taken.append([tables[i].get(tuple(cell), 0) for i, cell in enumerate(mazes.position)])
    return np.array(taken[-1])
best = play(shortest)
np.save("actions.npy", np.array(taken, np.uint8))
assert play(lambda mazes, step: np.load("actions.npy")[step]) == best
print("PUBLIC", best)
"""
REPLAY = """\
import numpy as np
class Policy:
    def __init__(self):
        self.actions, self.step = np.load("actions.npy"), -1
    def act(self, observations, done):
        self.step += 1
        return self.actions[self.step]
def make_policy(folder, index):
    return Policy()
"""


async def test_actions_recorded_in_known_episodes_do_not_replay_in_hidden_ones(desks: Desks) -> None:
    """Actions learned by heart: the shortest ways to all goals under a public seed earn next to nothing."""
    async with desks.at("metamaze") as desk:
        files = {"metamaze.py": game("metamaze"), "record.py": RECORD, "policy.py": REPLAY}
        said = await desk.put(files, "python3 record.py")
        found = re.search(r"PUBLIC ([\d.]+)", said)
        assert found, said
        event = await desk.scored()
        assert event["valid"], event["reason"]
        assert event["metrics"]["return_mean"] < float(found[1]) / 3
