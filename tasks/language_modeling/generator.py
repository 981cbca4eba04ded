"""Text to learn from, and windows of hidden text to foretell: the last token of each is what is scored.

``build`` tells stories with a secret lexicon; ``build_real`` takes GPT-2 tokens of FineWeb.
"""

import json

import numpy as np
from lexicon import draw_lexicon
from stories import tell

from mlgym_mcp.catalog.building import BuildContext

README = """{what}

train.bin  {train} tokens, each a {dtype} (little-endian): numpy.fromfile("train.bin", dtype="{dtype}")
info.json  facts for programs: "vocab" (number of different tokens), "dtype", "context" (tokens before the one that
           you foretell)
"""
SHARD_MAGIC, SHARD_HEADER = 20240520, 256
PAPER_TOKENS = 10_485_760
"""So many tokens at the beginning of the validation shard were scored in the paper: other runs may have seen them."""


def build(ctx: BuildContext) -> None:
    """Stories as bytes; the hidden ones are others, told with the same lexicon."""
    lexicon = draw_lexicon(ctx.rng("lexicon"))
    for share, split in enumerate(("train", "val", "test")):
        text, bits = tell(lexicon, ctx.params[f"{split}_bytes"], ctx.rng(split))
        tokens = np.frombuffer(text, np.uint8)
        if split == "train":
            publish(ctx, tokens, "Stories of a small world in an invented language: bytes (ASCII), one story a line.")
        else:
            hide(ctx, split, tokens, bits_per_byte=bits)
        ctx.progress((share + 1) / 3, f"{split} text told")


def build_real(ctx: BuildContext) -> None:
    """Tokens of web pages: a training shard for the agent, two different parts of the validation shard hidden."""
    publish(ctx, shard(ctx.source("train")), "Web pages (FineWeb) as tokens of GPT-2; 50256 stands before each page.")
    ctx.progress(0.5, "hiding windows")
    hidden = shard(ctx.source("validation"))[PAPER_TOKENS:]
    for split, part in zip(("val", "test"), np.array_split(hidden, 2), strict=True):
        hide(ctx, split, part)


def shard(path):
    """The tokens of a shard: a header of 256 int32 (magic, version, number of tokens), then uint16."""
    header = np.fromfile(path, "<i4", SHARD_HEADER)
    tokens = np.fromfile(path, "<u2", offset=4 * SHARD_HEADER)
    if header[0] != SHARD_MAGIC or header[1] != 1 or header[2] != len(tokens):
        raise ValueError(f"{path.name} is not a shard of tokens: header {header[:3].tolist()}, {len(tokens)} tokens")
    return tokens


def publish(ctx, tokens, what):
    """The public files."""
    tokens.tofile(ctx.public / "train.bin")
    dtype = {1: "uint8", 2: "uint16"}[tokens.itemsize]
    info = {"vocab": ctx.params["vocab"], "dtype": dtype, "context": ctx.params["context"]}
    (ctx.public / "info.json").write_text(json.dumps(info) + "\n")
    (ctx.public / "README.txt").write_text(README.format(what=what, train=len(tokens), dtype=dtype))


def hide(ctx, split, tokens, **facts):
    """Windows of context + 1 tokens for the vault, far apart in the text, in random order.

    A player sees all prefixes. If windows overlapped, it could read what it is to foretell in one off another one;
    if one began where another ends, it could guess the token between from both sides: so both presets have text for
    windows more than their own length apart. They are compressed, which also keeps the search for leaks from finding
    what all stories have in common ("where is X? X is in the Y.").
    """
    starts = places(len(tokens), ctx.params["context"] + 1, ctx.params[f"{split}_windows"], ctx.seed(f"{split} places"))
    windows = np.stack([tokens[start : start + ctx.params["context"] + 1] for start in starts])
    np.savez_compressed(ctx.private / f"{split}.npz", windows=windows)
    (ctx.private / f"{split}.json").write_text(json.dumps(facts) + "\n")


def places(length, span, count, seed):
    """Where ``count`` windows of ``span`` tokens begin, in random order: as far apart as the text allows."""
    stride, rng = length // count, np.random.default_rng(seed)
    if stride < span:
        raise ValueError(f"{length} tokens are too few for {count} windows of {span}")
    return rng.integers(stride - span + 1) + stride * rng.permutation(count)
