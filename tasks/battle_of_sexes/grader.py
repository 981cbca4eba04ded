"""Mean payoff per round of the submitted strategy with the hidden partners.

All matches are played in lockstep: one question to the player per round. The referee owns partners, lengths and
luck; the player only ever learns what was played.
"""

import json

import partners

from mlgym_mcp.grading.api import GradeContext, Score
from mlgym_mcp.grading.strata import stratified

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
    payoff = stratified((match.kind.__name__, match.mean()) for match in matches)
    rounds = [pair for match in matches for pair in match.history]
    return Score(
        {"payoff": payoff.mean},
        se={"payoff": payoff.se},
        public={
            "matches": len(matches),
            "your_choices_of_1": round(sum(mine for mine, _ in rounds) / len(rounds), 2),
            "evenings_together": round(sum(mine == theirs for mine, theirs in rounds) / len(rounds), 2),
        },
        private={"payoff_by_kind": payoff.rounded()},
    )


def gold(ctx: GradeContext) -> None:
    """There is no perfect submission for a game; the metric's ``optimal`` is an upper bound."""


def plain(ctx: GradeContext) -> dict[str, bytes]:
    """Make the simplest legal submission: it always asks for its own evening."""
    return {ENTRY: b"def move(history):\n    return 0\n"}
