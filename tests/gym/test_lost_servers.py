"""The server of an environment dies in the middle of an episode, and comes back, or is gone for good."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest

from mlgym_clients.agents.calling import ServerLostError
from mlgym_clients.gym import MLGymEnv
from mlgym_clients.rl.trl import task_environment
from mlgym_mcp.session.journal import read_journal
from tests.chaos.killable import ADMIN, Killable
from tests.gym.test_env import PERFECT, shell, soon
from tests.serving.conftest import backend, own_home

__all__ = ["backend", "own_home"]  # fixtures
TALE = "echo run >> runs; sleep 0.5; echo told by $(wc -l < runs)"
EDIT = {"path": "notes.txt", "old": "a", "new": "aa"}


@pytest.fixture
def killable(own_home: Path, backend: str) -> Iterator[Killable]:
    made = Killable(own_home, backend)
    anyio.run(made.start)
    yield made
    made.close()


def unread(port: int) -> bool:
    """Whether somebody has sent something to a port that nobody has read."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and int(row[4].split(":")[1], 16) for row in rows)


def killed_during(server: Killable, env: MLGymEnv, action: Any) -> tuple[Any, ...]:
    """Kill the server when it has been sent an action and has not read it; return what came of the step."""
    os.kill(server.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        step = pool.submit(env.step, action)
        soon(lambda: unread(server.port))
        server.kill()
        anyio.run(server.start)
        return step.result(60)


def test_an_episode_goes_on_when_its_server_is_killed_and_nothing_in_it_is_done_twice(killable: Killable) -> None:
    with MLGymEnv("toy", server=killable.url, token=ADMIN) as env:
        env.reset()
        env.step(PERFECT)
        observation, *_, info = killed_during(killable, env, shell(TALE))
        assert (observation.startswith("told by 1\n[exit 0"), info["lost"]) == (True, False), observation
        env.step(("write_file", {"path": "notes.txt", "content": "a\n"}))
        observation, reward, terminated, truncated, info = killed_during(killable, env, ("edit_file", EDIT))
        assert (info["is_error"], reward, terminated, truncated) == (True, 0, False, False)
        assert "not known" in observation, "done twice it would not be the same"
        killable.kill()
        with ThreadPoolExecutor(1) as pool:
            step = pool.submit(env.step, ("edit_file", EDIT))  # which reaches nobody at first, and so is asked again
            anyio.run(killable.start)
            assert "Edited" in step.result(60)[0], step.result()[0]
        assert env.step(("read_file", {"path": "notes.txt"}))[0].split() == ["1", "aa"]
        *_, terminated, _, info = env.step(("submit", {}))
        assert (terminated, info["outcome"]) == (True, "scored")
    (episode,) = (killable.home / "episodes").iterdir()
    assert [event.type for event in read_journal(episode)].count("adopted") == 3
    assert not killable.errors()


def test_when_the_own_server_is_gone_for_good_the_next_episode_has_another(
    home_of_module: None, serve: list[str]
) -> None:
    with MLGymEnv("toy", server="", serve=serve) as first, MLGymEnv("toy", server="", serve=serve) as second:
        first.reset()
        second.reset()
        lease = second._held._lease
        keeper, address = lease._own._keeper.pid, lease.address
        server = int(Path(f"/proc/{keeper}/task/{keeper}/children").read_text())
        os.kill(keeper, signal.SIGKILL)  # with which its server ends
        soon(lambda: not Path(f"/proc/{server}").exists())
        rollout = task_environment("toy", server=address.url, token=address.token, patience_s=0)()
        with pytest.raises(ServerLostError):
            rollout.reset()
        second.reset()
        assert lease.address != address
        assert second.step(shell("echo here"))[0].startswith("here\n")
        keeper = lease._own._keeper.pid
        server = int(Path(f"/proc/{keeper}/task/{keeper}/children").read_text())
    soon(lambda: not Path(f"/proc/{server}").exists())
