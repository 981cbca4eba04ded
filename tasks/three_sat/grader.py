"""Geometric mean of the decisions that a search needs with the submitted heuristic, on hidden formulas.

The search is the referee's: the player keeps a copy of its state and is asked for each decision, for all unfinished
formulas at once. The referee counts, propagates and backtracks; it checks every literal and every solution.
"""

import math

import formulas
from starter import dpll

from mlgym_mcp.grading.api import GradeContext, GraderError, Score
from mlgym_mcp.grading.branching import Branching

ENTRY = "heuristic.py"


def grade(ctx: GradeContext) -> Score:
    """Search all formulas of the split in lockstep."""
    n, limit, count = ctx.params["n"], ctx.params["limit"], ctx.params[f"{ctx.split}_formulas"]
    drawn = [formulas.draw(n, ctx.rng(f"formula {number}")) for number in range(count)]
    searches = [dpll.Search(n, clauses, limit) for clauses in drawn]
    with ctx.player(ENTRY, role="branching") as player:
        heuristic = Branching(player, ENTRY, n, drawn)
        live = list(range(count))
        while live:
            trails = [(number, searches[number].kept, searches[number].state.trail) for number in live]
            for number, literal in zip(live, heuristic.choose(trails), strict=True):
                search = searches[number]
                search.kept = len(search.state.trail)
                search.decide(literal)
            live = [number for number in live if searches[number].result is None]
            ctx.progress(1 - len(live) / count, f"{count - len(live)} of {count} formulas finished")
    for search in searches:
        state = search.state
        if search.result == "sat" and not all(any(state.value(x) > 0 for x in clause) for clause in state.clauses):
            raise GraderError("the search called a formula satisfied that is not")
    return summary(searches, limit)


def summary(searches, limit):
    """The score: a formula without an answer within the limit counts as twice the limit."""
    counts = [2 * limit if search.result == "limit" else search.decisions for search in searches]
    logs = [math.log(1 + count) for count in counts]
    mean = math.fsum(logs) / len(logs)
    spread = math.sqrt(math.fsum((x - mean) ** 2 for x in logs) / (len(logs) - 1))
    value = math.exp(mean)
    results = [search.result for search in searches]
    return Score(
        {"decisions": value},
        se={"decisions": value * spread / math.sqrt(len(logs))},
        public={"formulas": len(searches), "unanswered": results.count("limit")},
        private={
            "decisions": sum(search.decisions for search in searches),
            "most": max(counts),
            "sd_of_log": round(spread, 3),
            "satisfiable": results.count("sat"),
        },
    )


def gold(ctx: GradeContext) -> None:
    """Nobody knows the best heuristic; the metric's ``optimal`` is what a good look-ahead reaches."""


PLAIN = b'''"""The first free literal of the first clause that is not satisfied."""


def choose(state):
    return state.open_clauses()[0][0]
'''


def plain(ctx: GradeContext) -> dict[str, bytes]:
    """Work on the clauses in their order."""
    return {ENTRY: PLAIN}
