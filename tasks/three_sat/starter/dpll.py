"""The search that your heuristic steers, as the referee runs it: DPLL with unit propagation. Standard library only.

A literal is a number from -n to n without 0: 7 means "variable 7 is true", -7 means "variable 7 is false". A clause
is a tuple of three literals of different variables; it is satisfied when one of them is true.
"""

from __future__ import annotations

from itertools import chain


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


class Search:
    """One search: asks for nothing itself, is told each decision.

    Attributes:
        state: what the next decision is based on.
        decisions: how many were made.
        result: None while a decision is wanted; then "sat", "unsat" or "limit" (no answer within the limit).
        kept: length to which the trail shrank, at the least, since this was last set to the trail's length.
    """

    def __init__(self, n: int, clauses: list[tuple[int, int, int]], limit: int) -> None:
        self.state = State(n, clauses)
        self.decisions = 0
        self.result: str | None = None
        self.kept = 0
        self._limit = limit
        self._open: list[tuple[int, int]] = []  # decisions whose other branch is untried:
        # the length of the trail before, and the literal
        self._unsatisfied = 0  # a clause that was not satisfied when last looked at

    def decide(self, literal: int) -> None:
        """Go on from here with this literal, which must be unassigned, to the next decision or the end."""
        state = self.state
        self.decisions += 1
        self._open.append((len(state.trail), literal))
        consistent = state.extend(literal)
        while not consistent:
            if not self._open:
                self.result = "unsat"
                return
            length, failed = self._open.pop()
            state.undo(length)
            self.kept = min(self.kept, length)
            consistent = state.extend(-failed)
        if self._all_satisfied():
            self.result = "sat"
        elif self.decisions >= self._limit:
            self.result = "limit"

    def _all_satisfied(self) -> bool:
        satisfied, first = self.state.satisfied, self._unsatisfied
        for index in chain(range(first, len(self.state.clauses)), range(first)):
            if not satisfied(index):
                self._unsatisfied = index
                return False
        return True
