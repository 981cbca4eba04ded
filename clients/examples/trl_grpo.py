"""GRPO of TRL on tasks: ``pip install -r requirements/trl_grpo.txt mlgym-mcp``, in an environment of its own.

``MODEL`` names a chat model with tool calls. The server is ``MLGYM_SERVER`` with ``MLGYM_ADMIN_TOKEN``; without them
one is started, which ends with the program. ``TASKS`` are the tasks, separated by commas.
"""

import os

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from mlgym_clients.rl.trl import task_environment

GOAL = "Improve on the baseline of this task with the tools. Validate to see your score; submit once, at the end."


def trainer(model: str, tasks: list[str], *, rollouts: int = 2, steps: int = 1, folder: str = "grpo") -> GRPOTrainer:
    """Return a trainer that draws so many rollouts of a task for a step.

    Args:
        model: name or folder.
        tasks: one row of the data set each.
        rollouts: of a task; what they paid is compared.
        steps: of training.
        folder: for checkpoints.
    """
    rows = [{"prompt": [{"role": "user", "content": GOAL}], "task": task} for task in tasks]
    config = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=rollouts,
        num_generations=rollouts,
        max_steps=steps,
        max_completion_length=4096,
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
        report_to="none",
        save_strategy="no",
    )
    return GRPOTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        environment_factory=task_environment(),  # the rows say which task; the reward is the gain of the final score
    )


if __name__ == "__main__":
    grpo = trainer(os.environ["MODEL"], os.environ.get("TASKS", "three_sat").split(","))
    grpo.train()
    print(grpo.state.log_history)
