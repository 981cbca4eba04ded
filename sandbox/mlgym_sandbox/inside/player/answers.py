"""What every role of the player shares: answers, their refusals, and functions of the submission."""

from __future__ import annotations

from typing import Any

Answer = tuple[dict[str, Any], bytes]
"""The ``result`` of a reply, and its payload."""


class AnswerError(Exception):
    """The submission's answer cannot be passed on; ``code`` as in the referee's list."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def attribute(owner: Any, name: str, where: str) -> Any:
    """A function of the submission, or AnswerError."""
    found = getattr(owner, name, None)
    if not callable(found):
        raise AnswerError("missing", "%s has no function %s()" % (where, name))
    return found
