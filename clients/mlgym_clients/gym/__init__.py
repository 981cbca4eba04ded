"""Tasks as Gymnasium environments: ``pip install 'mlgym-mcp[gym]'``.

``import mlgym_clients.gym`` registers the tasks that come along, for ``gymnasium.make("mlgym/three_sat-mini-v0")``;
``gymnasium.make("mlgym_clients.gym:mlgym/three_sat-mini-v0")`` does both.
"""

from __future__ import annotations

try:
    import gymnasium as _gymnasium  # noqa: F401 - said here once, in words
except ImportError as exc:
    raise ImportError("mlgym_clients.gym needs Gymnasium: pip install 'mlgym-mcp[gym]'") from exc

from mlgym_clients.gym.env import MLGymEnv
from mlgym_clients.gym.registration import register_tasks
from mlgym_clients.gym.vector import make_vector
from mlgym_clients.rl.live import EpisodeLostError
from mlgym_clients.rl.rewards import Moment, final_score, score_change
from mlgym_clients.rl.servers import running_server

__all__ = [
    "EpisodeLostError",
    "MLGymEnv",
    "Moment",
    "final_score",
    "make_vector",
    "register_tasks",
    "running_server",
    "score_change",
]

register_tasks()
