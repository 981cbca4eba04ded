"""Reference: a convolutional network with batch normalisation, and a GRU that attends to its cells.

The captions of a picture are learnt together, all words at once: a first GRU reads the words so far, its states ask
the picture's cells, and a second GRU reads what both say. The cells know their place. Every caption is written by
beam search. Reads the data from $DATA_DIR (default /data) and writes submission.jsonl. Usage: python solve.py [epochs]
"""

import json
import os
import sys
import time
from collections import Counter

import numpy as np
import torch
from baseline import DATA, DEVICE, END, LONGEST, PAD, RAREST, START, UNKNOWN, Pictures, words
from torch import nn
from torch.nn import functional

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 3
SEED = int(os.environ.get("MLGYM_SEED", "0"))
BATCH, LEARNING_RATE, FILTERS, HIDDEN, CAPTIONS, BEAM = 50, 0.004, 24, 128, 3, 3


def block(inputs, outputs, stride):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Eye(nn.Module):
    """A picture's cells, (n, cells, HIDDEN): what is there and where."""

    def __init__(self, side):
        super().__init__()
        layers = [block(3, FILTERS, 2), block(FILTERS, 2 * FILTERS, 2), block(2 * FILTERS, 4 * FILTERS, 1)]
        while side > 4 * 14:  # larger pictures are halved more often, to at most 14x14 cells
            layers.append(block(4 * FILTERS, 4 * FILTERS, 2))
            side //= 2
        self.layers = nn.Sequential(*layers)
        self.into = nn.Linear(4 * FILTERS + 2, HIDDEN)

    def forward(self, pictures):
        seen = self.layers(pictures)
        n, _, height, width = seen.shape
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, height, device=seen.device),
            torch.linspace(-1, 1, width, device=seen.device),
            indexing="ij",
        )
        places = torch.stack([x, y]).expand(n, 2, height, width)
        return self.into(torch.cat([seen, places], 1).flatten(2).transpose(1, 2))


class Network(nn.Module):
    def __init__(self, vocabulary, side):
        super().__init__()
        self.eye = Eye(side)
        self.keys = nn.Linear(HIDDEN, HIDDEN)
        self.start = nn.Linear(HIDDEN, HIDDEN)
        self.embedding = nn.Embedding(vocabulary, HIDDEN)
        self.reader = nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.writer = nn.GRU(2 * HIDDEN, HIDDEN, batch_first=True)
        self.output = nn.Linear(2 * HIDDEN, vocabulary)

    def look(self, pictures):
        """What :meth:`read` needs of the pictures: cells, keys, and the GRUs' first states."""
        cells = self.eye(pictures)
        start = torch.tanh(self.start(cells.amax(1)))[None]
        return cells, self.keys(cells), (start, start)

    def read(self, seen, tokens):
        """The scores of the next word after each of the tokens (n, length), and the states after the last."""
        cells, keys, (reading, writing) = seen
        read, reading = self.reader(self.embedding(tokens), reading.contiguous())
        weights = torch.softmax(read @ keys.transpose(1, 2) / HIDDEN**0.5, 2)
        told = weights @ cells
        written, writing = self.writer(torch.cat([read, told], 2), writing.contiguous())
        return self.output(torch.cat([written, told], 2)), (reading, writing)

    @torch.no_grad()
    def write(self, pictures):
        """The likeliest captions by beam search, as lists of tokens."""
        n = len(pictures)
        cells, keys, states = self.look(pictures)
        cells, keys = (part.repeat_interleave(BEAM, 0) for part in (cells, keys))
        states = tuple(state.repeat_interleave(BEAM, 1) for state in states)
        tokens = torch.full((n * BEAM, 1), START, device=DEVICE)
        total = torch.tensor([0.0] + [-1e9] * (BEAM - 1), device=DEVICE).repeat(n, 1)
        done = torch.zeros(n, BEAM, dtype=torch.bool, device=DEVICE)
        for _ in range(LONGEST):
            scores, states = self.read((cells, keys, states), tokens[:, -1:])
            scores[..., [PAD, START, UNKNOWN]] = -1e9
            gains = torch.log_softmax(scores[:, 0], 1).view(n, BEAM, -1)
            ended = torch.full_like(gains, -1e9)
            ended[..., PAD] = 0
            gains = torch.where(done[..., None], ended, gains)
            total, best = (total[..., None] + gains).flatten(1).topk(BEAM, 1)
            parent, word = best // gains.shape[2], best % gains.shape[2]
            rows = (parent + torch.arange(n, device=DEVICE)[:, None] * BEAM).flatten()
            tokens = torch.cat([tokens[rows], word.flatten()[:, None]], 1)
            states = tuple(state[:, rows] for state in states)
            done = done.flatten()[rows].view(n, BEAM) | (word == END)
            if done.all():
                break
        return tokens.view(n, BEAM, -1)[:, 0, 1:].tolist()


def targets(captions, token_of, rng):
    """Some captions of each picture as tokens: (n * CAPTIONS, LONGEST)."""
    target = np.full((len(captions) * CAPTIONS, LONGEST), PAD)
    for row, texts in enumerate(captions):
        for column, chosen in enumerate(rng.permutation(len(texts))[:CAPTIONS]):
            text = texts[chosen]
            tokens = [*(token_of.get(word, UNKNOWN) for word in text), END]
            target[row * CAPTIONS + column, : len(tokens)] = tokens
    return torch.from_numpy(target[:, : int((target != PAD).sum(1).max())]).to(DEVICE)


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

    network = Network(len(known) + UNKNOWN + 1, pictures.files[0].shape[1]).to(DEVICE)
    network = network.to(memory_format=torch.channels_last)
    steps = EPOCHS * (len(pictures) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    started, losses = time.monotonic(), []
    for step in range(steps):
        place = step % (len(pictures) // BATCH) * BATCH
        if place == 0:
            order = rng.permutation(len(pictures))
        numbers = order[place : place + BATCH]
        target = targets([captions[number] for number in numbers], token_of, rng)
        cells, keys, states = network.look(pictures[numbers])
        seen = [part.repeat_interleave(CAPTIONS, 0) for part in (cells, keys)]
        states = tuple(state.repeat_interleave(CAPTIONS, 1) for state in states)
        scores, _ = network.read((*seen, states), functional.pad(target[:, :-1], (1, 0), value=START))
        loss = functional.cross_entropy(scores.flatten(0, 1), target.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % max(1, steps // 20) == 0:
            recent = np.mean(losses[-steps // 20 :])
            print(f"{(step + 1) / steps:4.0%} loss {recent:.3f} {time.monotonic() - started:.0f} s", flush=True)

    network.eval()
    unseen = Pictures("test")
    with open("submission.jsonl", "w") as file:
        for first in range(0, len(unseen), 250):
            numbers = np.arange(first, min(first + 250, len(unseen)))
            for number, tokens in zip(numbers, network.write(unseen[numbers]), strict=True):
                said = tokens[: tokens.index(END)] if END in tokens else tokens
                text = " ".join(known[token - UNKNOWN - 1] for token in said)
                file.write(json.dumps({"id": int(number), "text": text}) + "\n")
    print(f"wrote submission.jsonl with {len(unseen)} captions: {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
