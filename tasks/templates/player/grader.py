"""Mean payoff of the submitted strategy. It runs in a sandbox of its own; the referee asks it for moves."""

import json
import math

import opponents

from mlgym_mcp.grading.api import GradeContext, Score


def grade(ctx: GradeContext) -> Score:
    """Play all matches side by side: one question to the player per round."""
    rules = json.loads(ctx.private("rules.json").read_text())
    matches = range(ctx.params["matches"])
    luck = [ctx.rng(f"match {number}") for number in matches]  # the same for every grading of a split
    theirs = [rng.randrange(3) for rng in luck]
    points = [0] * len(matches)
    with ctx.player("strategy.py", role="matches") as player:
        player.start(len(matches))
        news = []
        for _ in range(ctx.params["rounds"]):
            moves = player.moves(matches, news, low=0, high=2)
            news = [(number, moves[number], theirs[number]) for number in matches]
            for number, mine, other in news:
                points[number] += (0, 1, -1)[(mine - other) % 3]
                theirs[number] = opponents.play(rules, other, luck[number].random())
    means = [total / ctx.params["rounds"] for total in points]
    mean = math.fsum(means) / len(means)
    spread = math.fsum((value - mean) ** 2 for value in means) / (len(means) - 1)
    return Score({"payoff": mean}, se={"payoff": math.sqrt(spread / len(means))})


def gold(ctx: GradeContext) -> None:
    """There is no perfect submission for a game."""


def plain(ctx: GradeContext) -> dict[str, bytes]:
    """Make the simplest legal submission; `tasks check` puts hostile code around it."""
    return {"strategy.py": b"def move(history):\n    return 0\n"}
