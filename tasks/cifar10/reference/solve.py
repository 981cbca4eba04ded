"""Reference: a residual network with batch normalisation, augmentation and a one-cycle learning rate.

Reads the data from $DATA_DIR (default /data) and writes submission.csv. Usage: python solve.py [epochs]
The seed is $MLGYM_SEED (default 0). With a GPU it takes a wider network and more epochs.
"""

import sys
import time

import numpy as np
import torch
from baseline import DATA, DEVICE, SEED, as_tensor, predict
from torch import nn
from torch.nn import functional

GPU = DEVICE.type == "cuda"
EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else (40 if GPU else 5)
WIDTH, BATCH = (64, 256) if GPU else (16, 128)
LEARNING_RATE, WEIGHT_DECAY, SMOOTHING, SHIFT = 0.012, 0.05, 0.05, 3


def block(inputs, outputs, stride=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.inner = nn.Sequential(block(channels, channels), block(channels, channels))

    def forward(self, x):
        return x + self.inner(x)


def make_network():
    return nn.Sequential(
        block(3, WIDTH),
        block(WIDTH, 2 * WIDTH, 2),
        Residual(2 * WIDTH),
        block(2 * WIDTH, 4 * WIDTH, 2),
        Residual(4 * WIDTH),
        block(4 * WIDTH, 4 * WIDTH, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * WIDTH, 10),
    )


def augment(images, colours_matter):
    """Shift and mirror a batch; where colours say little, swap their channels too."""
    if torch.rand(()) < 0.5:
        images = images.flip(3)
    if not colours_matter:
        images = images[:, torch.randperm(3)]
    down, right = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
    return torch.roll(images, (down, right), (2, 3))


def train(network, images, labels, colours_matter):
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    started = time.monotonic()
    for epoch in range(1, EPOCHS + 1):
        losses = []
        for chosen in torch.randperm(len(images))[: steps // EPOCHS * BATCH].to(DEVICE).split(BATCH):
            batch = augment(images[chosen], colours_matter).contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(network(batch), labels[chosen], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch}/{EPOCHS} loss {np.mean(losses):.3f} {time.monotonic() - started:.0f} s", flush=True)


def main():
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    archive = np.load(DATA / "train.npz")
    labels = torch.from_numpy(archive["labels"]).long().to(DEVICE)
    network = make_network().to(DEVICE, memory_format=torch.channels_last)
    made_pictures = "disc" in (DATA / "classes.txt").read_text().split()
    train(network, as_tensor(archive["images"]), labels, colours_matter=not made_pictures)
    predicted = predict(network, as_tensor(np.load(DATA / "test.npz")["images"]))
    with open("submission.csv", "w") as file:
        file.write("id,label\n")
        file.writelines(f"{i},{label}\n" for i, label in enumerate(predicted))
    print(f"wrote submission.csv with {len(predicted)} predictions")


if __name__ == "__main__":
    main()
