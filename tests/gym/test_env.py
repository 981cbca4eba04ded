"""Tasks as environments of Gymnasium and of TRL, over a real server."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv

from mlgym_clients.agents.calling import ServerLostError
from mlgym_clients.gym import MLGymEnv, Moment, register_tasks
from mlgym_clients.rl.servers import Address
from mlgym_clients.rl.trl import TaskEnvironment, task_environment
from mlgym_clients.sweep.control import ControlError
from tests.toy import CSV

EXAMPLE = Path(__file__).parents[2] / "clients" / "examples" / "gymnasium_loop.py"
Asked = Callable[..., Any]
PERFECT = {"tool": "write_file", "arguments": {"path": "submission.csv", "content": CSV}}


@pytest.fixture
def env(server: Address) -> Iterator[MLGymEnv]:
    made = MLGymEnv("toy", server=server.url, token=server.token, render_mode="ansi")
    yield made
    made.close()


def soon(what: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def shell(command: str) -> dict[str, Any]:
    return {"tool": "shell", "arguments": {"command": command}}


def test_gymnasiums_own_checker_finds_nothing(server: Address, asked: Asked) -> None:
    gymnasium.register("tests/toy-v0", "mlgym_clients.gym:MLGymEnv", kwargs={"task": "toy"})
    made = gymnasium.make("tests/toy-v0", server=server.url, token=server.token, render_mode="ansi").unwrapped
    check_env(made)  # also that it is the same again with the same seed
    made.close()
    assert {session["state"] for session in asked("sessions")["sessions"]} == {"over"}


def test_an_episode_pays_the_gain_of_its_final_score(env: MLGymEnv) -> None:
    task, info = env.reset(seed=5)
    assert "Odd or even" in task
    assert "Budget: 40 tool calls" in task
    assert info["task"]["metric"]["baseline"] == 0.5
    observation, reward, *_ = env.step("what?")
    assert "not understood" in observation
    observation, reward, terminated, truncated, info = env.step(shell("echo $MLGYM_SEED; exit 3"))
    assert observation.startswith("5\n[exit 3")
    assert (reward, terminated, truncated, info["facts"]["exit_code"]) == (0, False, False, 3)
    assert info["calls_left"] == 39
    assert env.render().endswith(observation)  # type: ignore[union-attr]
    rewards = [env.step(action)[1] for action in (PERFECT, ("validate", {}))]
    assert rewards[0] == 0
    observation, reward, terminated, truncated, info = env.step('{"tool": "submit"}')
    assert (terminated, truncated, info["outcome"]) == (True, False, "scored")
    assert info["score"]["kind"] == "submit"
    assert sum(rewards) + reward == pytest.approx(info["gain"])
    assert info["gain"] == pytest.approx((info["score"]["score"] - 0.5) / 0.5)
    with pytest.raises(ResetNeeded):
        env.step("{}")


def test_a_wrong_submission_is_no_end_and_pays_nothing(env: MLGymEnv) -> None:
    env.reset()
    env.step(("write_file", {"path": "submission.csv", "content": "id,label\n"}))
    observation, reward, terminated, truncated, info = env.step(("submit", {}))
    assert "not valid" in observation
    assert (reward, terminated, truncated, info["score"]["valid"]) == (0, False, False, False)


def test_a_truncated_episode_is_graded_as_it_stands(server: Address) -> None:
    seen: list[Moment] = []

    def reward(moment: Moment) -> float:
        seen.append(moment)
        return -0.5

    made = MLGymEnv("toy", server=server.url, token=server.token, max_steps=2, reward=reward, actions="shell")
    made.reset()
    assert made.step("printf 'id,label\\n' > submission.csv")[1:4] == (-0.5, False, False)
    observation, *rest, info = made.step("for i in $(seq 0 39); do echo $i,$((i % 2)); done >> submission.csv")
    assert rest == [-0.5, False, True]
    assert "the session was deleted" in observation
    assert info["score"]["kind"] == "autosubmit"
    assert (info["outcome"], seen[-1].ending, seen[-1].gain) == ("scored", "ended", info["gain"])
    assert -1 <= info["gain"] <= 1
    made.close()


def test_an_episode_without_a_final_score_comes_to_the_least(env: MLGymEnv) -> None:
    env.reset(options={"budget": {"wall_s": 1}})
    observation, reward, terminated, truncated, info = env.step(shell("sleep 30"))
    while not truncated:
        observation, reward, terminated, truncated, info = env.step(("status", {}))
    assert (reward, terminated, info["outcome"]) == (-1, False, "budget_exhausted")
    assert "wall time" in observation


def test_a_session_that_somebody_ends_truncates_the_episode(env: MLGymEnv, asked: Asked) -> None:
    _, info = env.reset()
    asked(f"sessions/{info['session']}", "DELETE")
    _, _, terminated, truncated, info = env.step(shell("true"))
    assert (terminated, truncated, info["outcome"]) == (False, True, "abandoned")


def test_long_and_strange_answers_are_observations(server: Address) -> None:
    with MLGymEnv("toy", server=server.url, token=server.token, actions="shell", max_length=500) as made:
        made.reset()
        observation, *_, info = made.step("head -c 30000 /dev/zero | tr '\\0' x; printf '\\377\\033[31m \\u00e9'")
        assert observation in made.observation_space
        assert len(observation) <= 500 < len(info["text"])
        assert made.step("printf '\ud800'")[0] in made.observation_space


def test_calls_that_the_server_refuses_are_answered(env: MLGymEnv) -> None:
    env.reset()
    strange: list[dict[str, Any]] = [{}, {"command": 10**400}, {"command": [[[1]]]}, {"command": "ls", "\ud800": 1}]
    for arguments in (*strange, {"command": "ls", "timeout_s": -1}, {"command": "\0"}):
        observation, reward, terminated, truncated, info = env.step(("shell", arguments))
        assert observation in env.observation_space
        assert (reward, terminated, truncated, info["is_error"]) == (0, False, False, True), arguments


def test_what_does_not_fit_is_said_at_once(server: Address, env: MLGymEnv) -> None:
    for wrong in (
        {"actions": "voice"},
        {"reward": "best"},
        {"on_loss": "cry"},
        {"max_steps": 0},
        {"render_mode": "human"},
    ):
        with pytest.raises(ValueError, match=r"use|is|at least"):
            MLGymEnv("toy", **dict([wrong]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there is no option 'size' of reset"):
        env.reset(options={"size": "full"})
    with pytest.raises(ControlError, match="nothing_like_it"):
        env.reset(options={"task": "nothing_like_it"})
    with pytest.raises(ControlError, match="does not take this admin token"):
        MLGymEnv("toy", server=server.url, token="wrong").reset()
    with pytest.raises(ResetNeeded):
        env.step("{}")


def test_names_make_environments(server: Address) -> None:
    register_tasks(["toy"], ["mini"])
    with gymnasium.make("mlgym/toy-mini-v0", server=server.url, token=server.token, actions="calls") as made:
        made.reset(seed=1)
        observation, reward, *_ = made.step({"tool": 12, "arguments": ""})
        assert "Validation" in observation or "not valid" in observation
        assert reward == 0
    assert "mlgym/three_sat-full-v0" in gymnasium.registry


def test_an_environment_that_is_forgotten_leaves_no_session(server: Address, asked: Asked) -> None:
    made = MLGymEnv("toy", server=server.url, token=server.token)
    _, info = made.reset()
    del made
    gc.collect()
    soon(lambda: asked(f"sessions/{info['session']}")["state"] == "over")


KILLED = """
import sys, time
import mlgym_clients.gym as gym
given = gym.MLGymEnv("toy", server=sys.argv[1], token=sys.argv[2])
own = gym.MLGymEnv("toy", server="", serve=sys.argv[3:])
session = given.reset()[1]["session"]
own.reset()
print(session, own._held._lease.address.url, own._held._lease.address.token, flush=True)
time.sleep(600)
"""


def test_a_program_that_is_killed_leaves_neither_session_nor_server_and_that_is_no_agents_failure(
    server: Address, serve: list[str], asked: Asked
) -> None:
    command = [sys.executable, "-c", KILLED, server.url, server.token, *serve]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            session, url, token = program.stdout.readline().split()
            raising = MLGymEnv("toy", server=url, token=token, patience_s=0)
            truncating = MLGymEnv("toy", server=url, token=token, patience_s=0, on_loss="truncate")
            rollout = task_environment("toy", server=url, token=token, patience_s=0)()
            assert rollout.get_reward() is None, "there is none yet"
            for made in (raising, truncating, rollout):
                made.reset()
            assert asked(f"sessions/{session}")["state"] == "ready"
        finally:
            program.send_signal(signal.SIGKILL)
    soon(lambda: asked(f"sessions/{session}")["state"] == "over")
    host, _, port = url.removeprefix("http://").partition(":")

    def gone() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == errno.ECONNREFUSED

    soon(gone)
    with pytest.raises(ServerLostError):
        raising.step(shell("true"))
    observation, reward, terminated, truncated, info = truncating.step(shell("true"))
    assert (reward, terminated, truncated, info["lost"]) == (0, False, True, True)
    assert "lost" in observation
    assert "lost" in rollout.shell("true")
    assert rollout.shell("true") == "The episode is over."
    assert rollout.get_reward() is None
    for environment in (raising, truncating):
        environment.close()
    rollout._finalizer()


def test_a_vector_of_environments_works_at_the_same_time(server: Address, asked: Asked) -> None:
    with pytest.raises(ValueError, match="shared_memory=False"):
        AsyncVectorEnv([lambda: MLGymEnv("toy", server=server.url, token=server.token)])
    register_tasks(["toy"], ["mini"])
    made = gymnasium.make_vec("mlgym/toy-mini-v0", num_envs=2, server=server.url, token=server.token)
    try:
        tasks, infos = made.reset(seed=[1, 2])
        assert all("Odd or even" in task for task in tasks)
        command = json.dumps(shell("echo $MLGYM_SEED; date +%s%N; sleep 1; date +%s%N"))
        observations, rewards, *_ = made.step((command, command))
        (one, began, ended), (two, began_too, ended_too) = (map(int, text.split()[:3]) for text in observations)
        assert (one, two) == (1, 2)
        assert began < ended_too
        assert began_too < ended
        assert list(rewards) == [0, 0]
    finally:
        made.close()
    for session in infos["session"]:
        assert asked(f"sessions/{session}")["state"] == "over"


@pytest.fixture
def environment(server: Address) -> Iterator[TaskEnvironment]:
    made = task_environment("toy", server=server.url, token=server.token)()
    yield made
    made._finalizer()


def test_a_rollout_pays_the_gain_of_its_final_score(environment: TaskEnvironment) -> None:
    assert "Odd or even" in environment.reset(prompt=[{"role": "user"}], task="toy", seed=7, preset=None)
    assert environment.shell("echo $MLGYM_SEED").startswith("7\n")
    assert "199 bytes" in environment.write_file("submission.csv", CSV)
    assert environment.read_file("submission.csv").count("\n") >= 40
    assert "no clear difference" in environment.validate() or "baseline" in environment.validate()
    told = environment.submit()
    score = float(told.split("accuracy ")[1].split()[0])
    assert environment.shell("true") == "The episode is over."
    assert environment.get_reward() == pytest.approx((score - 0.5) / 0.5)


def test_a_rollout_that_does_not_submit_is_graded_as_it_stands(
    environment: TaskEnvironment, asked: Callable[..., Any]
) -> None:
    environment.reset()
    environment.shell("true")
    assert environment.get_reward() == -1
    environment.reset()
    environment.write_file("submission.csv", CSV)
    reward = environment.get_reward()
    assert reward is not None
    assert reward >= -1
    assert {session["state"] for session in asked("sessions")["sessions"]} == {"over"}


def test_the_loop_that_is_shown_plays_an_episode(server: Address) -> None:
    environ = {**os.environ, "MLGYM_SERVER": server.url, "MLGYM_ADMIN_TOKEN": server.token, "TASK": "toy"}
    command = [sys.executable, str(EXAMPLE)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "validate: reward +0.000" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == "The episode paid -1.000: abandoned."
