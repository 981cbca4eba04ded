"""Baseline: a small convolutional network whose summary of the picture starts a GRU that writes the caption.

Reads the data from $DATA_DIR (default /data) and writes submission.jsonl. Usage: python baseline.py [epochs]
The seed is $MLGYM_SEED (default 0). Uses the GPU if there is one.
"""

import json
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

DATA = Path(os.environ.get("DATA_DIR", "/data"))
EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 2
SEED = int(os.environ.get("MLGYM_SEED", "0"))
BATCH, LEARNING_RATE, FILTERS, HIDDEN = 64, 0.003, 12, 48
PAD, START, END, UNKNOWN = 0, 1, 2, 3
LONGEST, RAREST = 20, 5  # words in a caption; uses of a word that is worth knowing
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Pictures:
    """The pictures of all files of a split, by number; they stay on disk."""

    def __init__(self, split):
        paths = sorted(DATA.glob(f"{split}_images_*.npy"), key=lambda path: int(path.stem.rpartition("_")[2]))
        self.files = [np.load(path, mmap_mode="r") for path in paths]
        self.starts = np.cumsum([0] + [len(file) for file in self.files])

    def __len__(self):
        return int(self.starts[-1])

    def __getitem__(self, numbers):
        """Floats from 0 to 1, shape (n, 3, side, side)."""
        files = np.searchsorted(self.starts, numbers, side="right") - 1
        rows = [self.files[file][number - self.starts[file]] for file, number in zip(files, numbers, strict=True)]
        return torch.from_numpy(np.stack(rows)).to(DEVICE).permute(0, 3, 1, 2).float().div(255)


def words(text):
    return re.findall(r"[a-z0-9]+", text.lower())[: LONGEST - 1]


class Network(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(3, FILTERS, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(FILTERS, 2 * FILTERS, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * FILTERS, 4 * FILTERS, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(5),
            nn.Flatten(),
            nn.Linear(4 * FILTERS * 25, HIDDEN),
            nn.Tanh(),
        )
        self.embedding = nn.Embedding(vocabulary, HIDDEN)
        self.gru = nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.output = nn.Linear(HIDDEN, vocabulary)

    def forward(self, pictures, tokens):
        """The scores of the next word after each of the tokens (n, length)."""
        states, _ = self.gru(self.embedding(tokens), self.cnn(pictures)[None])
        return self.output(states)

    @torch.no_grad()
    def write(self, pictures):
        """Always the likeliest next word: tokens (n, LONGEST)."""
        state = self.cnn(pictures)[None]
        token = torch.full((len(pictures), 1), START, device=DEVICE)
        tokens = []
        for _ in range(LONGEST):
            out, state = self.gru(self.embedding(token), state)
            scores = self.output(out)
            scores[..., [PAD, START, UNKNOWN]] = -1e9
            token = scores.argmax(2)
            tokens.append(token)
        return torch.cat(tokens, 1).tolist()


def main():
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    pictures = Pictures("train")
    with open(DATA / "train_captions.jsonl") as file:
        captions = [[words(text) for text in json.loads(line)["captions"]] for line in file]
    uses = Counter(word for texts in captions for text in texts for word in text)
    known = sorted(word for word, count in uses.items() if count >= RAREST)
    token_of = {word: token for token, word in enumerate(known, start=UNKNOWN + 1)}
    print(f"{len(pictures)} pictures, {len(known)} words", flush=True)

    network = Network(len(known) + UNKNOWN + 1).to(DEVICE)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    started = time.monotonic()
    for epoch in range(1, EPOCHS + 1):
        losses = []
        order = rng.permutation(len(pictures))
        for first in range(0, len(order), BATCH):
            numbers = order[first : first + BATCH]
            target = np.full((len(numbers), LONGEST), PAD)
            for row, number in enumerate(numbers):
                text = captions[number][rng.integers(len(captions[number]))]
                target[row, : len(text) + 1] = [*(token_of.get(word, UNKNOWN) for word in text), END]
            target = torch.from_numpy(target).to(DEVICE)
            given = functional.pad(target[:, :-1], (1, 0), value=START)
            scores = network(pictures[numbers], given)
            loss = functional.cross_entropy(scores.flatten(0, 1), target.flatten(), ignore_index=PAD)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch}/{EPOCHS} loss {np.mean(losses):.3f} {time.monotonic() - started:.0f} s", flush=True)

    network.eval()
    unseen = Pictures("test")
    with open("submission.jsonl", "w") as file:
        for first in range(0, len(unseen), 250):
            numbers = np.arange(first, min(first + 250, len(unseen)))
            for number, tokens in zip(numbers, network.write(unseen[numbers]), strict=True):
                said = tokens[: tokens.index(END)] if END in tokens else tokens
                text = " ".join(known[token - UNKNOWN - 1] for token in said)
                file.write(json.dumps({"id": int(number), "text": text}) + "\n")
    print(f"wrote submission.jsonl with {len(unseen)} captions")


if __name__ == "__main__":
    main()
