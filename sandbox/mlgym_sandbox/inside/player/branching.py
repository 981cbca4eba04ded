"""Role ``branching``: decides for a search that the referee runs.

``formulas {"n", "clauses"}`` with a payload of int16 literals, three a clause and ``clauses`` clauses a formula,
begins one search per formula. ``choose`` tells for some of them what changed since they were last asked about:
int16 ``number of the formula, length to which the trail shrank, count, count new literals``, one after the other;
the answer is one int16 literal for each: what ``choose(state)`` of the submission returns.

The state is a copy that serves the submission; spoiling it spoils nothing but its own answers.
"""

from __future__ import annotations

import operator
from array import array
from typing import Any

from mlgym_sandbox.inside.player.answers import Answer, AnswerError, attribute

LARGEST = 32767


class Branching:
    """Keeps the state of every search and asks for decisions."""

    def __init__(self, module: Any, facts: dict[str, Any]) -> None:
        self.choose_in = attribute(module, "choose", facts["entry"])
        self.states: list[Any] = []

    def formulas(self, args: dict[str, Any], payload: bytes, _size: int) -> Answer:
        """Fresh searches."""
        literals = memoryview(payload).cast("h").tolist()
        triples = [(literals[i], literals[i + 1], literals[i + 2]) for i in range(0, len(literals), 3)]
        size = args["clauses"]
        self.states = [State(args["n"], triples[i : i + size]) for i in range(0, len(triples), size)]
        return {}, b""

    def choose(self, _args: dict[str, Any], payload: bytes, _size: int) -> Answer:
        """Bring the states up to date and ask for one decision in each."""
        words = memoryview(payload).cast("h").tolist()
        at, chosen = 0, []
        while at < len(words):
            number, kept, count = words[at : at + 3]
            at += 3
            state = self.states[number]
            state.undo(kept)
            state.assign(words[at : at + count])
            at += count
            length = len(state.trail)
            chosen.append(as_literal(self.choose_in(state)))
            if len(state.trail) > length:
                state.undo(length)  # a look ahead that was not taken back
        return {}, array("h", chosen).tobytes()


def as_literal(choice: Any) -> int:
    """The literal as an integer that the wire can carry."""
    try:
        number = operator.index(choice)
    except TypeError:
        raise AnswerError("range", "choose() returned %.60r, expected an integer" % (choice,)) from None
    if not -LARGEST <= number <= LARGEST:
        raise AnswerError("range", "choose() returned a number of %d bits, expected a literal" % number.bit_length())
    return number


class State:
    """A formula and what is assigned so far, after unit propagation: what ``choose(state)`` gets.

    Attributes:
        n: the number of variables; they are numbered 1 to n.
        clauses: the clauses, a list of tuples of three literals.
        trail: the literals that are true so far, in the order of their assignment.
    """

    def __init__(self, n: int, clauses: list[tuple[int, int, int]]) -> None:
        self.n = n
        self.clauses = clauses
        self.trail: list[int] = []
        # Lists by literal: a negative index counts from the end. Partners: the other two of each of its clauses.
        self._values = [0] * (2 * n + 1)
        self._partners: list[list[tuple[int, int]]] = [[] for _ in range(2 * n + 1)]
        for a, b, c in clauses:
            self._partners[a].append((b, c))
            self._partners[b].append((a, c))
            self._partners[c].append((a, b))

    def value(self, literal: int) -> int:
        """Return 1 if the literal is true, -1 if it is false, 0 if its variable is not assigned."""
        return self._values[literal]

    def unassigned(self) -> list[int]:
        """Return the variables that have no value yet, a list."""
        values = self._values
        return [variable for variable in range(1, self.n + 1) if not values[variable]]

    def free(self, index: int) -> list[int]:
        """Return the unassigned literals of the clause with this index, a list."""
        values = self._values
        return [literal for literal in self.clauses[index] if not values[literal]]

    def satisfied(self, index: int) -> bool:
        """Return whether the clause with this index is satisfied."""
        a, b, c = self.clauses[index]
        values = self._values
        return values[a] > 0 or values[b] > 0 or values[c] > 0

    def open_clauses(self) -> list[tuple[int, ...]]:
        """Return what is left of the clauses that are not satisfied: tuples of their two or three free literals."""
        values = self._values
        left: list[tuple[int, ...]] = []
        for clause in self.clauses:
            a, b, c = clause
            x, y, z = values[a], values[b], values[c]
            if x > 0 or y > 0 or z > 0:
                continue
            if x:
                left.append((b, c))
            elif y:
                left.append((a, c))
            elif z:
                left.append((a, b))
            else:
                left.append(clause)
        return left

    def implied(self, literal: int) -> list[int] | None:
        """Return what would be assigned if this literal were chosen: a list that begins with it.

        None: it leads to a conflict at once. The state stays as it is.
        """
        before = len(self.trail)
        assigned = self.trail[before:] if self.extend(literal) else None
        self.undo(before)
        return assigned

    def extend(self, literal: int) -> bool:
        """Assign a literal and all that follows by unit propagation; returns False at a conflict."""
        values, partners, trail = self._values, self._partners, self.trail
        at = len(trail)
        trail.append(literal)
        values[literal], values[-literal] = 1, -1
        while at < len(trail):
            for a, b in partners[-trail[at]]:
                x, y = values[a], values[b]
                if x > 0 or y > 0:
                    continue
                if x:
                    if y:
                        return False
                    a = b  # both others are false: this one must be true
                elif not y:
                    continue
                values[a], values[-a] = 1, -1
                trail.append(a)
            at += 1
        return True

    def assign(self, literals: list[int]) -> None:
        """Note literals that are true, without propagation."""
        values = self._values
        for literal in literals:
            values[literal], values[-literal] = 1, -1
        self.trail += literals

    def undo(self, length: int) -> None:
        """Take assignments back until the trail has this length."""
        values, trail = self._values, self.trail
        for literal in trail[length:]:
            values[literal] = values[-literal] = 0
        del trail[length:]
