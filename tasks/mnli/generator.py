"""Pairs of sentences with the label of their relation: labelled ones for the agent, unlabelled ones with answers
in the vault. ``build`` invents them in a secret world; ``build_real`` takes MultiNLI.
"""

import json
import random
import shutil

import numpy as np
from pairs import LABELS, draw_pairs
from world import draw_world

from mlgym_mcp.catalog.building import BuildContext

README = """Pairs of sentences: does the premise entail the hypothesis, contradict it, or neither?

train.jsonl  {train} labelled pairs, one a line: {{"premise": ..., "hypothesis": ..., "label": ...}}
test.jsonl   {test} pairs without label: {{"id": ..., "premise": ..., "hypothesis": ...}}; predict one for each id

Labels: {labels}.
"""
BERT = ("model.safetensors", "config.json", "vocab.txt")


def build(ctx: BuildContext) -> None:
    """Invent a language and draw pairs; no two of all pairs are the same."""
    world = draw_world(ctx.rng("world"))
    taken = set()
    train = draw_pairs(world, ctx.params["train"], ctx.rng("train"), taken)
    ctx.progress(0.4, "drawing hidden pairs")
    hidden = draw_pairs(world, ctx.params["val"] + ctx.params["test"], ctx.rng("hidden"), taken)
    is_test = np.arange(len(hidden)) >= ctx.params["val"]
    write(ctx, train, hidden, is_test)


def build_real(ctx: BuildContext) -> None:
    """MultiNLI: publisher's training pairs; the matched pairs are the test, the mismatched ones the validation.

    Both come in one secret order, without the genre. They are from different genres, so an agent may guess from
    a text's style which split it is in: that tells nothing about its label.
    """
    train = read_parquet(ctx.source("train"))
    ctx.progress(0.5, "hiding labels")
    val, test = (read_parquet(ctx.source(f"validation_{name}")) for name in ("mismatched", "matched"))
    random.Random(ctx.seed("train")).shuffle(train)
    write(ctx, train, val + test, np.arange(len(val) + len(test)) >= len(val))
    ctx.progress(0.9, "copying BERT")
    folder = ctx.public / "bert"
    folder.mkdir()
    for name in BERT:
        shutil.copyfile(ctx.source(f"bert_{name.split('.')[0]}"), folder / name)


def read_parquet(path):
    """Tuples (premise, hypothesis, label) of a file of MultiNLI; pairs on which nobody agreed (-1) left out."""
    from pyarrow import parquet  # only the environment "data" has it

    columns = parquet.read_table(path, columns=["premise", "hypothesis", "label"]).to_pydict()
    rows = zip(columns["premise"], columns["hypothesis"], columns["label"], strict=True)
    return [row for row in rows if row[2] >= 0]


def write(ctx, train, hidden, is_test):
    """The public files and the hidden answers, the unlabelled pairs in a secret order."""
    order = np.random.default_rng(ctx.seed("order")).permutation(len(hidden))
    with (ctx.public / "train.jsonl").open("w", encoding="utf-8") as file:
        for premise, hypothesis, label in train:
            file.write(line(premise=premise, hypothesis=hypothesis, label=label))
    with (ctx.public / "test.jsonl").open("w", encoding="utf-8") as file:
        for number, place in enumerate(order):
            premise, hypothesis, _ = hidden[place]
            file.write(line(id=number, premise=premise, hypothesis=hypothesis))
    labels = ", ".join(f"{number} = {name}" for number, name in enumerate(LABELS))
    (ctx.public / "README.txt").write_text(README.format(train=len(train), test=len(hidden), labels=labels))
    answers = np.array([label for _, _, label in hidden], np.uint8)
    np.save(ctx.private / "answers.npy", answers[order])
    np.save(ctx.private / "is_test.npy", is_test[order])


def line(**fields):
    """One line of JSON."""
    return json.dumps(fields, ensure_ascii=False) + "\n"
