"""Accuracy of predicted labels on the hidden part of the unlabelled pairs."""

import math

import numpy as np

from mlgym_mcp.grading.api import GradeContext, Score

PATH = "submission.csv"
LABELS = ("entailment", "neutral", "contradiction")


def grade(ctx: GradeContext) -> Score:
    """Score the predictions on the split's pairs."""
    answers, is_test = np.load(ctx.private("answers.npy")), np.load(ctx.private("is_test.npy"))
    predicted = np.array(ctx.predictions(PATH, ids=range(len(answers)), kind="class", classes=len(LABELS)))
    counted = is_test == (ctx.split == "test")
    answers, right = answers[counted], predicted[counted] == answers[counted]
    accuracy, n = float(right.mean()), len(right)
    by_label = {name: round(float(right[answers == label].mean()), 4) for label, name in enumerate(LABELS)}
    return Score(
        {"accuracy": accuracy},
        se={"accuracy": math.sqrt(accuracy * (1 - accuracy) / n)},
        public={"pairs": n},
        private={"accuracy_by_label": by_label},
    )


def gold(ctx: GradeContext) -> dict[str, bytes]:
    """Make the perfect submission, to prove that it reaches the optimum."""
    answers = np.load(ctx.private("answers.npy"))
    rows = "".join(f"{i},{label}\n" for i, label in enumerate(answers))
    return {PATH: f"id,label\n{rows}".encode()}
