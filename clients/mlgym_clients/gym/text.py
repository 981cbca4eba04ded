"""The space of texts as tools return them and models write them."""

from __future__ import annotations

import string
from typing import Any, NoReturn

from gymnasium.error import CustomSpaceError
from gymnasium.spaces import Text
from gymnasium.vector.utils import create_shared_memory

_LEFT_OUT = "\n[... {} characters left out ...]\n"


class AnyText(Text):
    """Texts of any characters; samples are of ASCII.

    It refuses memory shared by processes: there, texts come out as padding (Gymnasium 1.4 reads them once, too early).

    Args:
        max_length: characters at most.
    """

    def __init__(self, max_length: int) -> None:
        super().__init__(max_length, min_length=0, charset=frozenset(string.printable))

    def contains(self, x: Any) -> bool:
        """Return whether it is a text that is not too long and that UTF-8 can hold."""
        return isinstance(x, str) and len(x) <= self.max_length and x == _whole(x)

    def fitted(self, text: str) -> str:
        """Return a text as it is in this space: lone surrogates replaced, the middle left out where it is too long."""
        text = _whole(text)
        if len(text) <= self.max_length:
            return text
        gap = _LEFT_OUT.format(len(text) - self.max_length)
        head = max(0, self.max_length - len(gap) - 8) * 2 // 5
        tail = max(0, self.max_length - len(gap) - 8) - head
        gap = _LEFT_OUT.format(len(text) - head - tail)
        return f"{text[:head]}{gap}{text[len(text) - tail :]}"[: self.max_length]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyText) and self.max_length == other.max_length

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"AnyText({self.max_length})"


def _whole(text: str) -> str:
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@create_shared_memory.register(AnyText)
def _refuse(space: AnyText, n: int = 1, ctx: Any = None) -> NoReturn:
    raise CustomSpaceError("texts do not travel in shared memory: pass shared_memory=False")
