"""Draws what the hidden commanders are like and records example matches that the agent may study."""

import json

import commanders

from mlgym_mcp.catalog.building import BuildContext

README = """matches.jsonl: one recorded match a line, {"rounds": [[mine, theirs], ...]}; each is a list of 6 numbers.

"mine" is a player that masses soldiers on a few fields by chance; "theirs" are opponents like those that your
strategy will meet, in random order.
"""


def amass(rng):
    """An allocation of the recorded player."""
    weights = [rng.uniform(0, 8) for _ in range(commanders.FIELDS)]
    for _ in range(3):
        weights[int(rng.random() * commanders.FIELDS)] += rng.uniform(10, 30)
    return commanders.spread(weights, rng)


def build(ctx: BuildContext) -> None:
    """Write the commanders' traits to the vault, recorded matches and a README to the public folder."""
    world = commanders.draw_world(ctx.rng("commanders"))
    (ctx.private / "world.json").write_text(json.dumps(world))
    count = ctx.params["examples"]
    lines = []
    for number, match in enumerate(commanders.schedule(count, ctx.params, world, lambda name: ctx.rng(f"ex. {name}"))):
        player = ctx.rng(f"recorded player {number}")
        rounds = []
        while not match.over():
            rounds.append(match.play(amass(player)))
        lines.append(json.dumps({"rounds": rounds}, separators=(",", ":")))
    (ctx.public / "matches.jsonl").write_text("\n".join(lines) + "\n")
    (ctx.public / "README.txt").write_text(README)
