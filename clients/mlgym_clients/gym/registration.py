"""Names for ``gymnasium.make``: ``mlgym/TASK-PRESET-v0``."""

from __future__ import annotations

from collections.abc import Iterable

import gymnasium

TASKS = (
    *("battle_of_sexes", "blotto", "breakout", "cifar10", "fashion_mnist", "house_price", "image_captioning"),
    *("language_modeling", "metamaze", "mnli", "model_soup", "mountain_car", "prisoners_dilemma", "three_sat"),
)
"""The tasks that come along."""

PRESETS = ("mini", "full")


def register_tasks(tasks: Iterable[str] = TASKS, presets: Iterable[str] = PRESETS) -> None:
    """Register tasks with Gymnasium; the name says which, and all arguments of ``MLGymEnv`` can be given to ``make``.

    Args:
        tasks: their ids; the server need not know them before one is made.
        presets: their sizes.
    """
    presets = tuple(presets)
    for task in tasks:
        for preset in presets:
            name = f"mlgym/{task}-{preset}-v0"
            if name not in gymnasium.registry:
                gymnasium.register(
                    name,
                    entry_point="mlgym_clients.gym.env:MLGymEnv",
                    vector_entry_point="mlgym_clients.gym.vector:make_vector",
                    nondeterministic=True,
                    kwargs={"task": task, "preset": preset},
                )
