"""Role ``matches``: games.

``start {"matches": n}`` begins n matches with empty histories. ``move {"live": [ids], "news": [[id, mine, theirs]]}``
notes what was played and answers ``{"moves": [...]}``: one ``move(history)`` per live match, where history is a list
of ``(mine, theirs)``.
"""

from __future__ import annotations

import operator
from typing import Any

from mlgym_sandbox.inside.player.answers import Answer, AnswerError, attribute


class Matches:
    """Keeps one history per match and asks for one move in each live one."""

    def __init__(self, module: Any, facts: dict[str, Any]) -> None:
        self.move_of = attribute(module, "move", facts["entry"])
        self.histories: list[list[tuple[Any, Any]]] = []

    def start(self, args: dict[str, Any], _payload: bytes, _size: int) -> Answer:
        """Fresh histories."""
        self.histories = [[] for _ in range(args["matches"])]
        return {}, b""

    def move(self, args: dict[str, Any], _payload: bytes, _size: int) -> Answer:
        """Note what was played, then ask for a move in each live match."""
        for match, mine, theirs in args["news"]:
            self.histories[match].append((mine, theirs))
        return {"moves": [whole(self.move_of(list(self.histories[match]))) for match in args["live"]]}, b""


def whole(move: Any) -> Any:
    """An integer, or a list of integers; numpy's count as such."""
    try:
        return operator.index(move)
    except TypeError:
        pass
    try:
        return [operator.index(value) for value in move]
    except TypeError:
        text = "move() returned %.60r, expected an integer or a list of integers" % (move,)
        raise AnswerError("range", text) from None
