"""Draws what the hidden partners are like and records example matches that the agent may study."""

import json

import partners

from mlgym_mcp.catalog.building import BuildContext

README = """matches.jsonl: one recorded match a line, {"rounds": [[mine, theirs], ...]}; each is 0 or 1.

"mine" is a player that mostly copies the partner's last choice and now and then tries something at random;
"theirs" are partners like those that your strategy will meet, in random order.
"""


def imitate(history, rng):
    """The choices of the recorded player."""
    if not history or rng.random() < 0.2:
        return int(rng.random() < 0.5)
    mine, theirs = history[-1]
    return theirs if rng.random() < 0.875 else mine


def build(ctx: BuildContext) -> None:
    """Write the partners' traits to the vault, recorded matches and a README to the public folder."""
    world = partners.draw_world(ctx.rng("partners"))
    (ctx.private / "world.json").write_text(json.dumps(world))
    count = ctx.params["examples"]
    lines = []
    for number, match in enumerate(partners.schedule(count, ctx.params, world, lambda name: ctx.rng(f"ex. {name}"))):
        player = ctx.rng(f"recorded player {number}")
        while not match.over():
            match.play(imitate(match.history, player))
        lines.append(json.dumps({"rounds": match.history}, separators=(",", ":")))
    (ctx.public / "matches.jsonl").write_text("\n".join(lines) + "\n")
    (ctx.public / "README.txt").write_text(README)
