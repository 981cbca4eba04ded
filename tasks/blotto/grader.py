"""Mean result per round of the submitted strategy against the hidden commanders.

All matches are played in lockstep: one question to the player per round. The referee owns opponents, lengths and
luck; the player only ever learns what was played.
"""

import json

import commanders

from mlgym_mcp.grading.api import GradeContext, InvalidSubmission, Score
from mlgym_mcp.grading.strata import stratified

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
    payoff = stratified((match.style.__name__, match.mean()) for match in matches)
    rounds = sum(outcomes.values())
    return Score(
        {"payoff": payoff.mean},
        se={"payoff": payoff.se},
        public={
            "matches": len(matches),
            "won": round(outcomes[1] / rounds, 2),
            "drawn": round(outcomes[0] / rounds, 2),
            "lost": round(outcomes[-1] / rounds, 2),
        },
        private={"payoff_by_style": payoff.rounded()},
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


def gold(ctx: GradeContext) -> None:
    """There is no perfect submission for a game; the metric's ``optimal`` is an upper bound."""


def plain(ctx: GradeContext) -> dict[str, bytes]:
    """Make the simplest legal submission: it spreads its soldiers evenly."""
    return {ENTRY: b"def move(history):\n    return [20, 20, 20, 20, 20, 20]\n"}
