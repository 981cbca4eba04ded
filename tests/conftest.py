"""Fixtures that all tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# CI's two cores are busy with sandboxes: how long drawing an example takes says nothing about the code.
settings.register_profile("mlgym", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
settings.load_profile("mlgym")

os.environ.pop("COLUMNS", None)  # several workers get the width of the terminal: tables are to be of the same, always


SLOWEST_FIRST = (
    "sweep/test_mini_tasks", "sweep/test_ray", "chaos/test_kills", "sweep/test_interrupted", "session/test_proof",
    "catalog/test_full", "frameworks/test_rl_frameworks", "serving/test_long_calls", "attacks/test_commands",
    "cli/test_commands", "bench/test_benches", "sweep/test_local", "serving/test_tools", "sandbox/test_behaviour",
    "serving/test_desk", "clients/test_llm",
)  # fmt: skip
"""Two workers take file after file: a long one that comes last would keep one of them waiting for the other."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _leave_out(config, items)
    places = {name: place for place, name in enumerate(SLOWEST_FIRST)}

    def place(item: pytest.Item) -> int:
        return places.get("/".join(item.path.with_suffix("").parts[-2:]), len(places))

    items.sort(key=place)


def _leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only ``make frameworks`` runs."""
    if "frameworks" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("frameworks") is not None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
