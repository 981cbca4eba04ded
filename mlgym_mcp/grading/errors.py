"""What can go wrong with grading. Standard library only: the referee imports it."""

from __future__ import annotations

from typing import Final, Literal, get_args

InvalidCode = Literal["missing", "format", "range", "too_large", "timeout", "protocol", "crash", "forbidden"]
INVALID_CODES: Final[frozenset[str]] = frozenset(get_args(InvalidCode))

SENTENCE_CHARS: Final = 2000
"""A reason is cut to this many characters: it may quote what the agent wrote."""


class InvalidSubmission(Exception):  # noqa: N818 - a verdict on the submission, not an error of ours
    """The submission cannot be scored, and that is the submission's doing.

    Not a score of zero: the attempt stays open, and the agent is told why.

    Args:
        code: one of ``missing``, ``format``, ``range``, ``too_large``, ``timeout``, ``protocol``, ``crash``,
            ``forbidden``.
        sentence: one sentence: where, what was found, what was expected.
        detail: what the agent's own program said about it (an exception's text, an exit code). Shown on the
            validation split only: on the test split it could carry test inputs out.

    Raises:
        ValueError: a code that is not one of these.
    """

    def __init__(self, code: str, sentence: str, detail: str = "") -> None:
        if code not in INVALID_CODES:
            raise ValueError(f"code must be one of {', '.join(sorted(INVALID_CODES))}, got {code!r}")
        super().__init__(code, sentence, detail)
        self.code = code
        self.sentence = sentence[:SENTENCE_CHARS]
        self.detail = detail[:SENTENCE_CHARS]

    def __str__(self) -> str:
        return f"{self.code}: {self.sentence}"


class GraderError(Exception):
    """No score could be made, and that is our doing: says nothing about the submission.

    Attributes:
        kind: ``grader`` (the task's code crashed, hung or answered nonsense) or ``infrastructure`` (a
            player's sandbox could not be made or was lost).
        log: the end of what the referee printed, for the journal; may hold hidden data, never for the agent.
    """

    def __init__(self, message: str, *, kind: Literal["grader", "infrastructure"] = "grader", log: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.log = log
