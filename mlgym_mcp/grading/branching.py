"""The referee's end of the role ``branching``: searches whose decisions the player makes. Standard library only."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from mlgym_mcp.grading.errors import InvalidSubmission
from mlgym_mcp.grading.players import Player


class Branching:
    """Tells a player how searches stand and takes its literals.

    Args:
        player: a player with the role ``branching``.
        entry: its file, for messages.
        n: the number of variables of every formula.
        formulas: the clauses of each, equally many: three literals a clause.
    """

    def __init__(self, player: Player, entry: str, n: int, formulas: Sequence[Sequence[Sequence[int]]]) -> None:
        self._player = player
        self._entry = entry
        self._n = n
        literals = array("h", (literal for clauses in formulas for clause in clauses for literal in clause))
        player.call("formulas", {"n": n, "clauses": len(formulas[0])}, payload=literals.tobytes())

    def choose(self, searches: Iterable[tuple[int, int, Sequence[int]]]) -> list[int]:
        """Ask for one literal in each search.

        Args:
            searches: for each that wants one: the number of its formula, the length to which its trail has shrunk
                since it was asked about before (0 at first), and its trail: the literals that are true, in order.

        Returns:
            The literals, in this order; each of a variable that is not in the trail.

        Raises:
            InvalidSubmission: ``range``: no such variable, or one that is assigned; or as :meth:`Player.call`.
        """
        words, trails = array("h"), []
        for number, kept, trail in searches:
            news = trail[kept:]
            words.extend((number, kept, len(news), *news))
            trails.append(trail)
        _, reply = self._player.call("choose", payload=words.tobytes(), reply_bytes=2 * len(trails))
        chosen = memoryview(reply).cast("h").tolist()
        for literal, trail in zip(chosen, trails, strict=True):
            if not 1 <= abs(literal) <= self._n:
                self._refuse(literal, "no variable of the formula")
            if literal in trail or -literal in trail:
                self._refuse(literal, "assigned already")
        return chosen

    def _refuse(self, literal: int, why: str) -> None:
        wanted = f"a literal of an unassigned variable: -{self._n} to {self._n} without 0"
        raise InvalidSubmission(
            "range",
            f"{self._entry}: choose() must return {wanted}",
            f"it returned {literal}, which is {why}",
        )
