"""What TRL makes tools of can be described; rollouts are in ``test_env``, and with the trainer in tests/frameworks."""

from __future__ import annotations

import inspect
from typing import get_type_hints

import pytest

from mlgym_clients.gym.actions import TOOLS
from mlgym_clients.rl.trl import TaskEnvironment
from mlgym_mcp.tools.toolbox import BY_NAME

METHODS = {
    name: method
    for name, method in inspect.getmembers(TaskEnvironment, inspect.isfunction)
    if not name.startswith("_") and name not in ("reset", "get_reward")
}


@pytest.mark.parametrize("name", METHODS)
def test_every_public_method_is_a_tool_that_can_be_described(name: str) -> None:
    method = METHODS[name]
    assert name in TOOLS
    hints = get_type_hints(method)
    assert hints.pop("return") is str
    parameters = set(inspect.signature(method).parameters) - {"self"}
    assert parameters == set(hints)
    assert parameters <= set(inspect.signature(BY_NAME[name].function).parameters)
    text = inspect.getdoc(method) or ""
    for parameter in parameters:
        assert f"\n    {parameter}: " in text, "TRL refuses a tool with an undescribed argument"
