"""Look ahead: of the variables in many short clauses, take the one whose both values force the most.

A value that leads to a conflict at once is the wrong one: its opposite is forced, and found without a search.
"""

CANDIDATES = 16
SHORT, LONG = 5, 1  # what a clause of two and of three free literals counts for


def choose(state):
    """An unassigned literal."""
    weights = dict.fromkeys(range(-state.n, state.n + 1), 0)
    for clause in state.open_clauses():
        weight = SHORT if len(clause) == 2 else LONG
        for literal in clause:
            weights[literal] += weight
    ranked = sorted(
        state.unassigned(), key=lambda v: weights[v] * weights[-v] * 1024 + weights[v] + weights[-v], reverse=True
    )
    best, chosen = -1, ranked[0]
    for variable in ranked[:CANDIDATES]:
        positive, negative = state.implied(variable), state.implied(-variable)
        if positive is None:
            return variable  # fails at once, then the search goes on with the opposite
        if negative is None:
            return -variable
        value = len(positive) * len(negative) * 1024 + len(positive) + len(negative)
        if value > best:
            best, chosen = value, variable if weights[variable] >= weights[-variable] else -variable
    return chosen
