"""Draws the hidden noise level and records example matches that the agent may study."""

import json

import opponents

from mlgym_mcp.catalog.building import BuildContext

README = """matches.jsonl: one recorded match a line, {"rounds": [[mine, theirs], ...]}; 0 = cooperate, 1 = defect.

"mine" is a player that copies the opponent's last move with probability 0.8 and repeats its own otherwise;
"theirs" are opponents like those that your strategy will meet, in random order.
"""


def imitate(history, rng):
    """The moves of the recorded player."""
    if not history:
        return int(rng.random() < 0.5)
    mine, theirs = history[-1]
    return theirs if rng.random() < 0.8 else mine


def build(ctx: BuildContext) -> None:
    """Write the noise level to the vault, recorded matches and a README to the public folder."""
    low, high = ctx.params["noise_low"], ctx.params["noise_high"]
    noise = low + (high - low) * ctx.rng("noise").random()
    (ctx.private / "world.json").write_text(json.dumps({"noise": noise}))
    params = ctx.params | {"matches_per_rule": ctx.params["examples_per_rule"]}
    lines = []
    for number, match in enumerate(opponents.schedule(params, noise, lambda name: ctx.rng(f"example {name}"))):
        player = ctx.rng(f"example player {number}")
        while not match.over():
            match.play(imitate(match.history, player))
        lines.append(json.dumps({"rounds": match.history}, separators=(",", ":")))
    (ctx.public / "matches.jsonl").write_text("\n".join(lines) + "\n")
    (ctx.public / "README.txt").write_text(README)
