"""Mean payoff per round of the submitted strategy against the hidden opponents.

All matches are played in lockstep: one question to the player per round. The referee owns opponents, noise,
lengths and luck; the player only ever learns what was played.
"""

import json

import opponents

from mlgym_mcp.grading.api import GradeContext, Score
from mlgym_mcp.grading.strata import stratified

ENTRY = "strategy.py"


def grade(ctx: GradeContext) -> Score:
    """Play all matches of the split."""
    noise = json.loads(ctx.private("world.json").read_text())["noise"]
    matches = opponents.schedule(ctx.params, noise, ctx.rng)
    with ctx.player(ENTRY, role="matches") as player:
        player.start(len(matches))
        news = []
        for played in range(ctx.params["rounds_high"]):
            live = [number for number, match in enumerate(matches) if not match.over()]
            moves = player.moves(live, news, low=opponents.C, high=opponents.D)
            news = [(number, *matches[number].play(move)) for number, move in zip(live, moves, strict=True)]
            ctx.progress((played + 1) / ctx.params["rounds_high"], f"round {played + 1}")
    payoff = stratified((rule(match), match.mean()) for match in matches)
    defections = sum(mine for match in matches for mine, _ in match.history)
    rounds = sum(len(match.history) for match in matches)
    return Score(
        {"payoff": payoff.mean},
        se={"payoff": payoff.se},
        public={"matches": len(matches), "your_defections": round(defections / rounds, 2)},
        private={"noise": noise, "payoff_by_rule": payoff.rounded()},
    )


def rule(match):
    """The name of the rule that the opponent keeps to, or ``any`` if it draws one every round."""
    return "any" if match.rule is None else opponents.RULES[match.rule].__name__


def gold(ctx: GradeContext) -> None:
    """There is no perfect submission for a game; the metric's ``optimal`` is an upper bound."""


def plain(ctx: GradeContext) -> dict[str, bytes]:
    """Make the simplest legal submission: it always defects."""
    return {ENTRY: b"def move(history):\n    return 1\n"}
