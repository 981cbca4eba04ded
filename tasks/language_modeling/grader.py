"""Mean loss of the submitted model on hidden text: what the token after a prefix costs under the model's scores.

The player sees prefixes only; the token that is scored never leaves the referee, so there is nothing to peek at.
Whatever scores come back, the referee itself makes probabilities of them.
"""

import json
import math

import numpy as np

from mlgym_mcp.grading.api import GradeContext, InvalidSubmission, Score

ENTRY = "model.py"
CAP = 16.0
"""Most that one token can cost: a model that rules the truth out loses much, but not everything."""


def grade(ctx: GradeContext) -> Score:
    """Ask for the scores of all tokens after each prefix of the split."""
    windows = np.load(ctx.private(f"{ctx.split}.npz"))["windows"]
    vocab, batch = ctx.params["vocab"], ctx.params["batch"]
    costs = []
    with ctx.player(ENTRY, role="arrays", make="load") as player:
        for start in range(0, len(windows), batch):
            part = windows[start : start + batch]
            prefixes, truth = np.ascontiguousarray(part[:, :-1]), part[:, -1]
            shape = (len(part), vocab)
            dtype = f"u{prefixes.itemsize}"
            asked = [(dtype, prefixes.shape, prefixes.tobytes())]
            raw = player.arrays("next_logits", asked, out=("f4", shape))
            costs.append(cost(np.frombuffer(raw, "<f4").reshape(shape), truth))
            ctx.progress((start + len(part)) / len(windows), f"{start + len(part)} of {len(windows)} prefixes")
    nats = np.concatenate(costs)
    losses = np.minimum(nats / math.log(2) if ctx.params["bits"] else nats, CAP)
    facts = json.loads(ctx.private(f"{ctx.split}.json").read_text())
    return Score(
        {"loss": float(losses.mean())},
        se={"loss": float(losses.std(ddof=1) / math.sqrt(len(losses)))},
        public={"prefixes": len(losses)},
        private={**facts, "capped": int((losses >= CAP).sum())},
    )


def cost(logits, truth):
    """The cost of the true tokens in nats: ``logits`` float32 (n, vocab), ``truth`` integers (n,)."""
    if not np.isfinite(logits).all():
        raise InvalidSubmission("range", f"{ENTRY}: next_logits() must return finite numbers, it returned inf or nan")
    highest = logits.max(1, keepdims=True)
    with np.errstate(over="ignore"):  # scores may be further apart than float32 reaches: then they weigh nothing
        weights = np.exp(logits - highest).sum(1, dtype=np.float64)
    chosen = np.take_along_axis(logits, truth[:, None].astype(np.int64), 1)
    return np.log(weights) + (highest.astype(np.float64) - chosen)[:, 0]


def plain(ctx: GradeContext) -> dict[str, bytes]:
    """The simplest submission: every token is equally likely."""
    vocab = ctx.params["vocab"]
    code = f"""import numpy as np


def load(folder):
    return Uniform()


class Uniform:
    def next_logits(self, tokens):
        return np.zeros((len(tokens), {vocab}), np.float32)
"""
    return {ENTRY: code.encode()}


def gold(ctx: GradeContext) -> None:
    """There is no perfect submission: nobody can know the next token."""
