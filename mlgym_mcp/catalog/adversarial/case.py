"""One hostile or clumsy submission."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

VALID: Final = "valid"
"""Stands for a score, among the codes of :class:`mlgym_mcp.grading.errors.InvalidSubmission`."""


@dataclass(frozen=True, slots=True)
class Adversarial:
    """A hostile or clumsy submission, and what must come of it.

    Attributes:
        name: a few words.
        files: to be written to the workspace, by name.
        commands: to be run by a shell in the workspace then, if any.
        expect: how the grading may end: codes of refusals, or ``valid``.
        honest: if ``valid`` is expected: files that behave the same without the trick; equal score.
    """

    name: str
    files: Mapping[str, bytes]
    expect: frozenset[str]
    commands: str = ""
    honest: Mapping[str, bytes] = field(default_factory=dict)


def case(name: str, files: Mapping[str, bytes], *expect: str, commands: str = "") -> Adversarial:
    """Return a submission that must be refused."""
    return Adversarial(name, files, frozenset(expect), commands)
