"""The language model that is graded: a small GPT. ``baseline.py`` trains it and leaves its weights beside it.

The grader runs this file and calls ``load(folder)`` once, with the folder of the submitted files, then
``next_logits(tokens)`` of what it returned, again and again.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

torch.set_num_threads(1)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Block(nn.Module):
    """Attention to earlier tokens, then a perceptron, each added to what comes in: (batch, time, width)."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mixing = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mixing = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        batch, time, width = x.shape
        parts = self.attention(self.before_attention(x)).view(batch, time, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, time, width))
        return x + self.mixing(self.before_mixing(x))


class GPT(nn.Module):
    """Scores of the next token at every place, (batch, time, vocab), or at the last place only."""

    def __init__(self, vocab, context, layers, width, heads):
        super().__init__()
        self.context = context
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, std=0.02)

    def forward(self, tokens, last=False):
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x[:, -1] if last else x)
        return x @ self.tokens.weight.T  # the same weights say which token comes in and which goes out


class Model:
    """What the grader talks to."""

    def __init__(self, network):
        self.network = network.to(DEVICE).eval()

    def next_logits(self, tokens):
        """Scores of the next token.

        Args:
            tokens: integers, shape (n, context): the tokens before the one to foretell, the newest last.

        Returns:
            float32 array, shape (n, vocab): the higher a token's score, the likelier; logarithms of
            probabilities, up to a constant.
        """
        newest = torch.from_numpy(tokens[:, -self.network.context :].astype(np.int64)).to(DEVICE)
        with torch.inference_mode():
            return torch.cat([self.network(part, last=True) for part in newest.split(128)]).float().cpu().numpy()


def load(folder):
    """The trained model, from the files in ``folder``."""
    network = GPT(**json.loads((Path(folder) / "config.json").read_text()))
    network.load_state_dict({name: w.float() for name, w in load_file(Path(folder) / "weights.safetensors").items()})
    return Model(network)
