"""Uniform random 3-SAT: every clause has three different variables, each negated with probability one half."""

RATIO = 4.26
"""Clauses per variable, where satisfiable and unsatisfiable formulas are about equally frequent, and hardest."""


def draw(n, rng):
    """The clauses of one formula over variables 1 to n: tuples of three literals."""
    variables = range(1, n + 1)
    return [
        tuple(variable if rng.random() < 0.5 else -variable for variable in rng.sample(variables, 3))
        for _ in range(round(RATIO * n))
    ]
