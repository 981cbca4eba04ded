"""Example formulas for the agent. The hidden ones are drawn by the grader, from other seeds."""

import json

import formulas

from mlgym_mcp.catalog.building import BuildContext

README = """examples.json: {{"n": variables, "limit": most decisions, "formulas": [[[literal, ...], ...], ...]}}

{examples} random formulas with {n} variables and {clauses} clauses each, like the hidden ones. A literal is a number
from -{n} to {n} without 0: 7 means "variable 7 is true", -7 means "variable 7 is false".
"""


def build(ctx: BuildContext) -> None:
    """Write examples and a README to the public folder."""
    n, count = ctx.params["n"], ctx.params["examples"]
    drawn = [formulas.draw(n, ctx.rng(f"example {number}")) for number in range(count)]
    examples = {"n": n, "limit": ctx.params["limit"], "formulas": drawn}
    (ctx.public / "examples.json").write_text(json.dumps(examples, separators=(",", ":")) + "\n")
    (ctx.public / "README.txt").write_text(README.format(examples=count, n=n, clauses=len(drawn[0])))
