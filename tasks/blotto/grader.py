"""Mean result per round of the submitted strategy against the hidden commanders.

All matches are played in lockstep: one question to the player per round. The referee owns opponents, lengths and
luck; the player only ever learns what was played.
"""

import json
import math

import commanders

from mlgym_mcp.grading.api import GradeContext, InvalidSubmission, Score

ENTRY = "strategy.py"


def grade(ctx: GradeContext) -> Score:
    """Play all matches of the split."""
    world = json.loads(ctx.private("world.json").read_text())
    matches = commanders.schedule(ctx.params["matches"], ctx.params, world, ctx.rng)
    outcomes = {1: 0, 0: 0, -1: 0}
    with ctx.player(ENTRY, role="matches") as player:
        player.start(len(matches))
        news = []
        for played in range(ctx.params["rounds_high"]):
            live = [number for number, match in enumerate(matches) if not match.over()]
            moves = player.moves(live, news, low=0, high=commanders.SOLDIERS, length=commanders.FIELDS)
            news = []
            for number, move in zip(live, moves, strict=True):
                mine, theirs = matches[number].play(affordable(move))
                outcomes[commanders.result(mine, theirs)] += 1
                news.append((number, mine, theirs))
            ctx.progress((played + 1) / ctx.params["rounds_high"], f"round {played + 1}")
    payoff, error, by_style = summary(matches)
    rounds = sum(outcomes.values())
    return Score(
        {"payoff": payoff},
        se={"payoff": error},
        public={
            "matches": len(matches),
            "won": round(outcomes[1] / rounds, 2),
            "drawn": round(outcomes[0] / rounds, 2),
            "lost": round(outcomes[-1] / rounds, 2),
        },
        private={"payoff_by_style": by_style},
    )


def affordable(move):
    """Return the move.

    Raises:
        InvalidSubmission: it needs more soldiers than there are.
    """
    if sum(move) > commanders.SOLDIERS:
        raise InvalidSubmission(
            "range",
            f"{ENTRY}: move() must place at most {commanders.SOLDIERS} soldiers in all",
            f"it placed {sum(move)}: {move}",
        )
    return move


def summary(matches):
    """The mean result, its standard error with the styles of opponents as strata, and the result by style."""
    strata = {}
    for match in matches:
        strata.setdefault(match.style.__name__, []).append(match.mean())
    mean, variance, by_style = 0.0, 0.0, {}
    for name, values in sorted(strata.items()):
        share, n = len(values) / len(matches), len(values)
        centre = math.fsum(values) / n
        spread = math.fsum((value - centre) ** 2 for value in values) / max(1, n - 1)
        mean += share * centre
        variance += share**2 * spread / n
        by_style[name] = round(centre, 3)
    return mean, math.sqrt(variance), by_style


def gold(ctx: GradeContext) -> None:
    """There is no perfect submission for a game; the metric's ``optimal`` is an upper bound."""


def plain(ctx: GradeContext) -> dict[str, bytes]:
    """Make the simplest legal submission: it spreads its soldiers evenly."""
    return {ENTRY: b"def move(history):\n    return [20, 20, 20, 20, 20, 20]\n"}
