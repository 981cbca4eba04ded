"""Corpus BLEU-4 of the captions of the hidden part of the unlabelled pictures."""

import gzip
import json

import numpy as np
from bleu import bleu, counts, words

from mlgym_mcp.grading.api import GradeContext, Score

PATH = "submission.jsonl"


def _hidden(ctx: GradeContext) -> tuple[list[list[str]], np.ndarray]:
    """The references of all unlabelled pictures, and which of these are test pictures."""
    references = json.loads(gzip.decompress(ctx.private("references.json.gz").read_bytes()))
    return references, np.load(ctx.private("is_test.npy"))


def grade(ctx: GradeContext) -> Score:
    """Score the captions of the split's pictures."""
    references, is_test = _hidden(ctx)
    captions = ctx.texts(PATH, ids=range(len(references)))
    counted = np.flatnonzero(is_test == (ctx.split == "test"))
    table = np.array([counts(captions[number], references[number]) for number in counted])
    score, error = bleu(table)
    sums = table.sum(0)
    precisions = [round(float(right / max(1, total)), 4) for right, total in zip(sums[:4], sums[4:8], strict=True)]
    return Score(
        {"bleu4": score},
        se={"bleu4": error},
        public={"pictures": len(counted), "mean_words": round(float(sums[8] / len(counted)), 1)},
        private={"precisions": precisions, "mean_reference_words": round(float(sums[9] / len(counted)), 2)},
    )


def gold(ctx: GradeContext) -> dict[str, bytes]:
    """Make the perfect submission: one of each picture's own references, which has a BLEU of exactly 1."""
    references, _ = _hidden(ctx)
    lines = []
    for number, texts in enumerate(references):
        shortest = min((" ".join(words(text)) for text in texts), key=lambda text: (len(text.split()), text))
        lines.append(json.dumps({"id": number, "text": shortest}))
    return {PATH: ("\n".join(lines) + "\n").encode()}
