"""Accuracy on the hidden part of the points. It never imports or runs anything that the agent made."""

import math

from mlgym_mcp.grading.api import GradeContext, Score


def answers(ctx):
    """The labels of all points to predict, and the split that each counts for."""
    labels = [int(line) for line in ctx.private("labels.txt").read_text().split()]
    return labels, ctx.private("split.txt").read_text().split()


def grade(ctx: GradeContext) -> Score:
    """Score the predictions on the split's points."""
    labels, split = answers(ctx)
    predicted = ctx.predictions("submission.csv", ids=range(len(labels)), kind="class", classes=2)
    right = [p == label for p, label, part in zip(predicted, labels, split, strict=True) if part == ctx.split]
    accuracy = sum(right) / len(right)
    return Score({"accuracy": accuracy}, se={"accuracy": math.sqrt(accuracy * (1 - accuracy) / len(right))})


def gold(ctx: GradeContext) -> dict[str, bytes]:
    """Make the perfect submission, to prove that it reaches the optimum."""
    labels, _ = answers(ctx)
    return {"submission.csv": ("id,label\n" + "".join(f"{i},{v}\n" for i, v in enumerate(labels))).encode()}
