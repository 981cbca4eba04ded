"""The messages between an agent and its model: how large they are, and how they are made to fit its context.

A conversation is ``[request, response, request, response, ...]``: the first request holds the task, each later one
the results of the calls in the response before it. Trimming never parts a call from its result.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)

_CHARS_PER_TOKEN = 3.6
_STUB = 400
_RECENT = 6
"""Messages at the end that are touched last."""
_TARGET = 0.6
"""What is left after trimming, as a share of the room: then the beginning stays the same, and cached, for a while."""


def size_of(message: ModelMessage) -> int:
    """Return about how many characters of the context a message takes."""
    return 20 + sum(_part_size(part) for part in message.parts)


def _part_size(part: ModelRequestPart | ModelResponsePart) -> int:
    if isinstance(part, ToolCallPart):
        arguments = part.args if isinstance(part.args, str) else json.dumps(part.args or {}, default=str)
        return len(part.tool_name) + len(arguments) + 40
    content = getattr(part, "content", "")
    return len(content if isinstance(content, str) else str(content)) + 20


class Conversation:
    """The messages so far, and what a token is worth in characters at this endpoint.

    Args:
        context_tokens: room for a request and its answer.
        output_tokens: kept free for the answer.
        overhead: characters that every request carries besides: tools.
    """

    def __init__(self, first: ModelRequest, context_tokens: int, output_tokens: int, overhead: int) -> None:
        self.messages: list[ModelMessage] = [first]
        self.room_tokens = max(1000, context_tokens - min(output_tokens, context_tokens // 2))
        self._overhead = overhead
        self._chars_per_token = _CHARS_PER_TOKEN

    @property
    def chars(self) -> int:
        """About how many characters the next request has."""
        return self._overhead + sum(map(size_of, self.messages))

    def tokens(self, chars: int | None = None) -> int:
        """Return about how many tokens so many characters, or the next request, are."""
        return int((self.chars if chars is None else chars) / self._chars_per_token) + 1

    def learn(self, tokens_in: int, chars: int) -> None:
        """Take notice of how many tokens the endpoint counted for a request of so many characters."""
        if tokens_in > 100:
            self._chars_per_token = min(8.0, max(1.0, chars / tokens_in))

    def fit(self) -> int:
        """Shorten what does not fit; returns how many characters were left out."""
        room = int(self.room_tokens * self._chars_per_token) - self._overhead
        before = sum(map(size_of, self.messages))
        if before <= room:
            return 0
        self.messages = trimmed(self.messages, int(room * _TARGET), room)
        return before - sum(map(size_of, self.messages))

    def shrink(self) -> bool:
        """Halve the room, because the endpoint says that the context is full; returns whether that makes sense."""
        now = min(self.room_tokens, self.tokens())
        self.room_tokens = now // 2
        return self.room_tokens > 500


def trimmed(messages: Sequence[ModelMessage], target: int, room: int) -> list[ModelMessage]:
    """Return the messages in about ``target`` characters: old results shortened, then old calls, then both left out.

    The first message and the last exchange stay; if those alone are larger than ``room``, their texts are cut.
    """
    kept = list(messages)
    total = sum(map(size_of, kept))
    for shorten in (_short_results, _short_calls):
        for place in range(1, len(kept) - _RECENT):
            if total <= target:
                return kept
            before = size_of(kept[place])
            kept[place] = shorten(kept[place], _STUB)
            total += size_of(kept[place]) - before
    while len(kept) > 3 and total > target:
        total -= size_of(kept[1]) + size_of(kept[2])
        del kept[1:3]
    if sum(map(size_of, kept)) <= room:
        return kept
    parts = max(1, sum(len(message.parts) for message in kept[1:]))
    share = max(200, (room - size_of(kept[0])) // parts)
    kept = [kept[0], *(_short_calls(_short_results(message, share), share) for message in kept[1:])]
    if sum(map(size_of, kept)) > room:
        kept[0] = _short_results(kept[0], max(500, room // 2))
    return kept


def _short_results(message: ModelMessage, most: int) -> ModelMessage:
    if not isinstance(message, ModelRequest):
        return message
    parts: list[ModelRequestPart] = []
    for part in message.parts:
        if isinstance(part, UserPromptPart) and isinstance(part.content, str):
            part = replace(part, content=shortened(part.content, most))
        elif isinstance(part, ToolReturnPart) and isinstance(part.content, str):
            result: ToolReturnPart[Any] = part
            part = replace(result, content=shortened(part.content, most))
        parts.append(part)
    return replace(message, parts=parts)


def _short_calls(message: ModelMessage, most: int) -> ModelMessage:
    if not isinstance(message, ModelResponse):
        return message
    parts: list[ModelResponsePart] = []
    for part in message.parts:
        if isinstance(part, ToolCallPart):
            call: ToolCallPart[Any] = part
            part = replace(call, args=_short_values(part.args_as_dict(), most))
        elif isinstance(part, TextPart):
            part = replace(part, content=shortened(part.content, most))
        elif isinstance(part, ThinkingPart):
            continue
        parts.append(part)
    return replace(message, parts=parts or [TextPart("[left out]")])


def _short_values(value: Any, most: int) -> Any:
    if isinstance(value, str):
        return shortened(value, most)
    if isinstance(value, dict):
        return {shortened(str(name), 100): _short_values(item, most) for name, item in list(value.items())[:50]}
    if isinstance(value, list):
        return [_short_values(item, most) for item in value[:50]]
    return value


def shortened(text: str, most: int) -> str:
    """Return a text, or its beginning and end with a line between that says how much is missing."""
    if len(text) <= most:
        return text
    note = f"\n[... {len(text)} characters in all, shortened to save room ...]\n"
    room = max(0, most - len(note))
    return f"{text[: room - room // 3]}{note}{text[len(text) - room // 3 :]}"


__all__ = ["Conversation", "shortened", "size_of", "trimmed"]
