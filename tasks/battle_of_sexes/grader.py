"""Mean payoff per round of the submitted strategy with the hidden partners.

All matches are played in lockstep: one question to the player per round. The referee owns partners, lengths and
luck; the player only ever learns what was played.
"""

import json
import math

import partners

from mlgym_mcp.grading.api import GradeContext, Score

ENTRY = "strategy.py"


def grade(ctx: GradeContext) -> Score:
    """Play all matches of the split."""
    world = json.loads(ctx.private("world.json").read_text())
    matches = partners.schedule(ctx.params["matches"], ctx.params, world, ctx.rng)
    with ctx.player(ENTRY, role="matches") as player:
        player.start(len(matches))
        news = []
        for played in range(ctx.params["rounds_high"]):
            live = [number for number, match in enumerate(matches) if not match.over()]
            moves = player.moves(live, news, low=0, high=1)
            news = [(number, *matches[number].play(move)) for number, move in zip(live, moves, strict=True)]
            ctx.progress((played + 1) / ctx.params["rounds_high"], f"round {played + 1}")
    payoff, error, by_kind = summary(matches)
    rounds = [pair for match in matches for pair in match.history]
    return Score(
        {"payoff": payoff},
        se={"payoff": error},
        public={
            "matches": len(matches),
            "your_choices_of_1": round(sum(mine for mine, _ in rounds) / len(rounds), 2),
            "evenings_together": round(sum(mine == theirs for mine, theirs in rounds) / len(rounds), 2),
        },
        private={"payoff_by_kind": by_kind},
    )


def summary(matches):
    """The mean payoff, its standard error with the kinds of partners as strata, and the payoff by kind."""
    strata = {}
    for match in matches:
        strata.setdefault(match.kind.__name__, []).append(match.mean())
    mean, variance, by_kind = 0.0, 0.0, {}
    for name, values in sorted(strata.items()):
        share, n = len(values) / len(matches), len(values)
        centre = math.fsum(values) / n
        spread = math.fsum((value - centre) ** 2 for value in values) / max(1, n - 1)
        mean += share * centre
        variance += share**2 * spread / n
        by_kind[name] = round(centre, 3)
    return mean, math.sqrt(variance), by_kind


def gold(ctx: GradeContext) -> None:
    """There is no perfect submission for a game; the metric's ``optimal`` is an upper bound."""


def plain(ctx: GradeContext) -> dict[str, bytes]:
    """Make the simplest legal submission: it always asks for its own evening."""
    return {ENTRY: b"def move(history):\n    return 0\n"}
