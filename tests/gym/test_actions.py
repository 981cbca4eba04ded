"""What a learner may say, and what it is told when it cannot be understood."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgym_clients.gym.actions import TOOLS, ActionKind, ToolCall, UnclearActionError, action_space, read_action
from mlgym_clients.gym.registration import TASKS
from mlgym_clients.gym.text import AnyText
from mlgym_clients.rl.rewards import FLOOR, Moment, final_score, gain, reward_function, score_change
from mlgym_mcp.api import MetricView
from mlgym_mcp.catalog import Catalog
from mlgym_mcp.tools.toolbox import TOOLS as SERVERS_TOOLS

CIRCLE: dict[str, Any] = {}
CIRCLE["command"] = CIRCLE
KEYS = st.text() | st.sampled_from(["tool", "arguments"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([*TOOLS, "tool", "arguments"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from(["tool", "arguments"]), inner)
    ),
    max_leaves=8,
)


def test_tools_and_tasks_are_those_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLGYM_TASKS", raising=False)
    assert [tool.name for tool in SERVERS_TOOLS] == list(TOOLS)
    assert sorted(Catalog.default().ids()) == list(TASKS)


@pytest.mark.parametrize("kind", ["json", "shell", "calls"])
@pytest.mark.parametrize(
    "action",
    [
        {"tool": "shell", "arguments": {"command": "ls"}},
        {"tool": 7, "arguments": '{"command": "ls"}'},
        {"tool": np.int64(7), "arguments": '{"command": "ls"}'},
        ("shell", {"command": "ls"}),
        [7, '{"command": "ls"}'],
    ],
)
def test_a_call_is_understood_in_all_ways_of_writing_it(action: Any, kind: ActionKind) -> None:
    assert read_action(action, kind) == ToolCall("shell", {"command": "ls"})


def test_texts_are_calls_or_commands() -> None:
    assert read_action(np.array('{"tool": "submit"}'), "json") == ToolCall("submit", {})
    assert read_action('{"tool": "submit", "arguments": null}', "json") == ToolCall("submit", {})
    assert read_action(" submit\n", "shell") == ToolCall("submit", {})
    assert read_action("submit now", "shell") == ToolCall("shell", {"command": "submit now"})


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ("ls -la", r"not JSON \(at character 0"),
        ('{"tool": "shell", "arguments": {"command": "ls"}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "it is a list"),
        ("null", "it is null"),
        ("{}", "it names no tool; the tools are get_task"),
        ('{"tool": "bash"}', "there is no tool 'bash'"),
        ('{"tool": true}', "there is no tool 'True'"),
        ({"tool": 99}, "there is no tool '99'"),
        ({"tool": -1}, "there is no tool '-1'"),
        ({"tool": "shell", "arguments": [1]}, "its arguments are a list, not an object"),
        ({"tool": "shell", "arguments": "ls"}, "not JSON"),
        ({"tool": "shell", "args": {}}, "the unknown keys args"),
        ({"tool": "shell", "arguments": {"command": b"ls"}}, "hold what JSON cannot"),
        ('{"tool": "shell", "arguments": {"command": NaN}}', "hold what JSON cannot"),
        ({"tool": "shell", "arguments": CIRCLE}, "hold what JSON cannot"),
        ({"tool": "write_file", "arguments": {"path": "a", "content": "x" * 5_000_000}}, "longer than 4000000"),
        ('{"tool": "shell", "arguments": {"command": ' + "[" * 100 + "]" * 100 + "}}", "nested deeper than 16"),
        (7, "it is a int"),
        (None, "it is null"),
    ],
)
def test_what_is_no_call_is_told_with_an_example(action: Any, told: str) -> None:
    with pytest.raises(UnclearActionError, match=told) as caught:
        read_action(action, "json")
    assert '{"tool": "shell", "arguments": {"command": "ls"}}' in str(caught.value)
    assert len(str(caught.value)) < 1000


@given(VALUES | VALUES.map(json.dumps) | st.binary() | st.text(), st.sampled_from(["json", "shell", "calls"]))
def test_nothing_else_ever_comes_of_an_action(action: Any, kind: ActionKind) -> None:
    with suppress(UnclearActionError):
        call = read_action(action, kind)
        assert call.tool in TOOLS
        assert isinstance(call.arguments, dict)


@pytest.mark.parametrize("kind", ["json", "shell", "calls"])
def test_samples_of_a_space_are_in_it(kind: ActionKind) -> None:
    space = action_space(kind)
    space.seed(1)
    assert space.sample() in space


@given(st.text(alphabet=st.characters(exclude_categories=())), st.integers(0, 60))
def test_any_text_fits_its_space(text: str, length: int) -> None:
    space = AnyText(length)
    fitted = space.fitted(text)
    assert fitted in space
    assert fitted == text or len(text) > length or not text.isascii()


def test_of_a_long_text_beginning_and_end_are_kept() -> None:
    text = "".join(map(str, range(10_000)))
    fitted = AnyText(1000).fitted(text)
    head, _, tail = fitted.partition("\n[... ")
    assert text.startswith(head)
    assert len(head) > 300
    assert text.endswith(tail.partition("...]\n")[2])
    assert "\ud800" not in AnyText(1000)


MAX = MetricView(name="accuracy", direction="max", baseline=0.5, optimal=1.0)
MIN = MetricView(name="loss", direction="min", baseline=4.0)


@pytest.mark.parametrize(
    ("metric", "score", "gained"),
    [
        *((MAX, 0.5, 0), (MAX, 1.0, 1), (MAX, 0.75, 0.5), (MAX, 0.0, -1), (MAX, -9.0, FLOOR)),
        *((MIN, 4.0, 0), (MIN, 2.0, 0.5), (MIN, 8.0, -1), (MIN, 1e9, FLOOR)),
        (MetricView(name="points", direction="max", baseline=0.0), 3.0, 3),
        (MetricView(name="points", direction="max"), 3.0, 3),
    ],
)
def test_gains_put_scores_on_one_scale(metric: MetricView, score: float, gained: float) -> None:
    assert gain(score, metric) == pytest.approx(gained)


def test_rewards_are_the_change_of_the_score_or_the_final_one() -> None:
    step = Moment("validate", {}, "", False, {}, None, 0.2, 0.5)
    last = Moment("submit", {}, "", False, {}, None, 0.5, 0.4, ending="submitted")
    lost = Moment("submit", {}, "", False, {}, None, 0.5, 0.5, ending="lost")
    assert [score_change(moment) for moment in (step, last, lost)] == pytest.approx([0.3, -0.1, 0])
    assert [final_score(moment) for moment in (step, last, lost)] == pytest.approx([0, 0.4, 0])
    with pytest.raises(ValueError, match="use 'score_change' or 'final_score', or a function"):
        reward_function("best")
