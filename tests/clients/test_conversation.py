"""Conversations are made to fit: no call is parted from its result, the task stays, and the room is kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)

from mlgym_clients.agents.conversation import Conversation, shortened, size_of, trimmed

exchanges = st.lists(
    st.tuples(st.integers(0, 4000), st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 30_000)), max_size=3)),
    max_size=25,
)


def conversation(drawn: list[tuple[int, list[tuple[int, int]]]]) -> list[ModelMessage]:
    messages: list[ModelMessage] = [ModelRequest([UserPromptPart("the task " * 50)])]
    for number, (said, made) in enumerate(drawn):
        calls = [ToolCallPart("shell", {"command": "c" * c}, f"{number}-{i}") for i, (c, _) in enumerate(made)]
        messages.append(ModelResponse([TextPart("t" * said), *calls]))
        answers = [ToolReturnPart("shell", "r" * r, f"{number}-{i}") for i, (_, r) in enumerate(made)]
        messages.append(ModelRequest(answers or [UserPromptPart("call a tool")]))
    return messages


@given(exchanges, st.integers(6000, 100_000))
def test_whatever_was_said_fits_afterwards(drawn: list[tuple[int, list[tuple[int, int]]]], room: int) -> None:
    messages = conversation(drawn)
    kept = trimmed(messages, int(room * 0.6), room)
    assert sum(map(size_of, kept)) <= room
    assert kept[0] == messages[0]
    assert [message.kind for message in kept] == [("request", "response")[i % 2] for i in range(len(kept))]
    called = [part.tool_call_id for m in kept for part in m.parts if isinstance(part, ToolCallPart)]
    returned = [part.tool_call_id for m in kept for part in m.parts if isinstance(part, ToolReturnPart)]
    assert called == returned
    if len(messages) > 1:
        assert len(kept[-1].parts) == len(messages[-1].parts)


def test_what_fits_is_left_as_it_is() -> None:
    messages = conversation([(10, [(10, 10)])] * 5)
    assert trimmed(messages, 10**6, 10**6) == messages
    kept = Conversation(ModelRequest([UserPromptPart("task")]), 10_000, 1000, 0)
    assert kept.fit() == 0


def test_the_size_of_a_token_is_learnt_from_what_the_endpoint_counts() -> None:
    kept = Conversation(ModelRequest([UserPromptPart("x" * 9980)]), 10_000, 1000, 0)
    assert 2500 < kept.tokens() < 3000
    kept.learn(tokens_in=10_000, chars=10_000)
    assert kept.tokens() > 9900
    assert kept.fit() > 0
    assert kept.tokens() < 9000


def test_a_shortened_text_says_how_long_it_was_and_keeps_both_ends() -> None:
    short = shortened("a" * 5000 + "b" * 5000, 400)
    assert len(short) <= 400
    assert short.startswith("aaa")
    assert short.endswith("bbb")
    assert "10000 characters" in short
