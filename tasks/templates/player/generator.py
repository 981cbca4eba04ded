"""A secret kind of opponents, and recorded matches of them."""

import json

import opponents

from mlgym_mcp.catalog.building import BuildContext


def build(ctx: BuildContext) -> None:
    """Write the secret rules to the vault and example matches for the agent."""
    rng = ctx.rng("world")
    preferred = [rng.randrange(3) for _ in range(3)]
    rules = [[0.8 if move == wanted else 0.1 for move in range(3)] for wanted in preferred]
    (ctx.private / "rules.json").write_text(json.dumps(rules))
    lines = []
    for _ in range(50):
        theirs = [rng.randrange(3)]
        while len(theirs) < ctx.params["rounds"]:
            theirs.append(opponents.play(rules, theirs[-1], rng.random()))
        lines.append(json.dumps({"theirs": theirs}) + "\n")
    (ctx.public / "matches.jsonl").write_text("".join(lines))
