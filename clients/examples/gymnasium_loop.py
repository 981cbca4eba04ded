"""A loop over a task as a Gymnasium environment: ``pip install 'mlgym-mcp[gym]'``, then ``python gymnasium_loop.py``.

The server is ``MLGYM_SERVER`` with ``MLGYM_ADMIN_TOKEN``; without them one is started, which ends with the program.
``TASK`` is another task than ``three_sat``.
"""

import json
import os

from mlgym_clients.gym import MLGymEnv


def policy(observation: str, step: int) -> str:
    """Return an action: here a fixed plan, which tries the baseline; a learner would write it from what it reads."""
    del observation
    plan = [
        {"tool": "shell", "arguments": {"command": "ls; if [ -e baseline.py ]; then python baseline.py; fi"}},
        {"tool": "validate"},
        {"tool": "submit"},
    ]
    return json.dumps(plan[min(step, len(plan) - 1)])


def main() -> None:
    """Play an episode."""
    with MLGymEnv(os.environ.get("TASK", "three_sat"), budget={"validations": 3}, max_steps=20) as env:
        observation, info = env.reset(seed=0)
        print(observation)
        paid, step, over = 0.0, 0, False
        while not over:
            observation, reward, terminated, truncated, info = env.step(policy(observation, step))
            print(f"{info['tool']}: reward {reward:+.3f}, calls left {info['calls_left']}\n{observation}\n")
            paid, step, over = paid + reward, step + 1, terminated or truncated
    print(f"The episode paid {paid:.3f}: {info['outcome']}.")


if __name__ == "__main__":
    main()
