"""Accuracy of predicted labels on the hidden part of the unlabelled images."""

import numpy as np

from mlgym_mcp.grading.api import GradeContext, Score

PATH = "submission.csv"
CLASSES = 10


def grade(ctx: GradeContext) -> Score:
    """Score the predictions on the split's images."""
    answers, is_test = np.load(ctx.private("answers.npy")), np.load(ctx.private("is_test.npy"))
    predicted = np.array(ctx.predictions(PATH, ids=range(len(answers)), kind="class", classes=CLASSES))
    counted = is_test == (ctx.split == "test")
    truth = answers[counted]
    right = predicted[counted] == truth
    accuracy, n = float(right.mean()), len(right)
    by_class = {str(label): round(float(right[truth == label].mean()), 4) for label in range(CLASSES)}
    return Score(
        {"accuracy": accuracy},
        se={"accuracy": float(np.sqrt(accuracy * (1 - accuracy) / n))},
        public={"images": n},
        private={"accuracy_by_class": by_class},
    )


def gold(ctx: GradeContext) -> dict[str, bytes]:
    """Make the perfect submission, to prove that it reaches the optimum."""
    answers = np.load(ctx.private("answers.npy"))
    rows = "".join(f"{i},{label}\n" for i, label in enumerate(answers))
    return {PATH: f"id,label\n{rows}".encode()}
