"""Baseline: a small convolutional network in PyTorch, trained for a few epochs with Adam.

Reads the data from $DATA_DIR (default /data) and writes submission.csv. Usage: python baseline.py [epochs]
The seed is $MLGYM_SEED (default 0). Uses the GPU if there is one.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

DATA = Path(os.environ.get("DATA_DIR", "/data"))
EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 3
SEED = int(os.environ.get("MLGYM_SEED", "0"))
BATCH, LEARNING_RATE = 64, 0.001
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def as_tensor(images):
    """Images (n, 32, 32, 3) from 0 to 255 as floats (n, 3, 32, 32) from 0 to 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).to(DEVICE)


class Network(nn.Module):
    """Two 3x3 convolutions with ReLU and 2x2 max pooling, then one dense layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.dense = nn.Linear(32 * 8 * 8, 10)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.first(x)), 2)
        x = functional.max_pool2d(functional.relu(self.second(x)), 2)
        return self.dense(x.flatten(1))


def train(network, images, labels):
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    started = time.monotonic()
    for epoch in range(1, EPOCHS + 1):
        losses = []
        for chosen in torch.randperm(len(images)).split(BATCH):
            chosen = chosen.to(DEVICE)
            loss = functional.cross_entropy(network(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch}/{EPOCHS} loss {np.mean(losses):.3f} {time.monotonic() - started:.0f} s", flush=True)


@torch.no_grad()
def predict(network, images):
    network.eval()
    return torch.cat([network(batch).argmax(1) for batch in images.split(500)]).tolist()


def main():
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    archive = np.load(DATA / "train.npz")
    images = as_tensor(archive["images"])
    labels = torch.from_numpy(archive["labels"]).long().to(DEVICE)
    network = Network().to(DEVICE)
    train(network, images, labels)
    predicted = predict(network, as_tensor(np.load(DATA / "test.npz")["images"]))
    with open("submission.csv", "w") as file:
        file.write("id,label\n")
        file.writelines(f"{i},{label}\n" for i, label in enumerate(predicted))
    print(f"wrote submission.csv with {len(predicted)} predictions")


if __name__ == "__main__":
    main()
