"""The eight categories of the task: ways to spoil 8x8 pictures of digits, with strengths drawn from the secret.

Pictures are float32 arrays of shape (n, 8, 8), values about 0 to 1. Every picture gets a little sensor noise and
a brightness of its own as well, so that no two drawings of one digit are equal.
"""

import numpy as np

CATEGORIES = ("noise", "rotate", "invert", "shift", "occlude", "blur", "scramble", "contrast")
SIDE = 8
SENSOR_NOISE, BRIGHTNESS = 0.03, 0.08  # standard deviation; largest relative change


def draw_world(rng):
    """The secret strengths and directions of this installation, as a dict."""
    scramble = np.arange(SIDE * SIDE)
    moved = rng.permutation(SIDE * SIDE)[:22]
    scramble[moved] = rng.permutation(moved)
    return {
        "noise": rng.uniform(0.3, 0.4),
        "quarters": int(rng.choice([1, 3])),
        "shift": int(rng.choice([-2, 2])),
        "shift_axis": int(rng.integers(1, 3)),
        "scramble": scramble,
        "gain": rng.uniform(0.22, 0.3),
        "offset": rng.uniform(0.5, 0.65),
    }


def corrupt(pictures, category, world, rng):
    """Spoil clean pictures in one way; returns rows of 64 float32 pixels.

    Args:
        pictures: (n, 8, 8), clean.
        category: an index of :data:`CATEGORIES`, or None for sensor noise and brightness only.
        world: from :func:`draw_world`.
        rng: numpy generator of all that is random here.
    """
    n = len(pictures)
    x = pictures * rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS, (n, 1, 1))
    name = None if category is None else CATEGORIES[category]
    if name == "noise":
        x = np.clip(x + rng.normal(0, world["noise"], x.shape), 0, 1)
    elif name == "rotate":
        x = np.rot90(x, world["quarters"], (1, 2))
    elif name == "invert":
        x = 1 - x
    elif name == "shift":
        x = np.roll(x, world["shift"], world["shift_axis"])
        gone = slice(0, world["shift"]) if world["shift"] > 0 else slice(world["shift"], None)
        np.moveaxis(x, world["shift_axis"], 0)[gone] = 0
    elif name == "occlude":
        top, left = rng.integers(0, SIDE - 2, (2, n, 1, 1))
        row, column = np.mgrid[:SIDE, :SIDE]
        x = np.where((row >= top) & (row < top + 3) & (column >= left) & (column < left + 3), 0, x)
    elif name == "blur":
        x = (x + sum(np.roll(x, step, axis) for step in (-1, 1) for axis in (1, 2))) / 5
    elif name == "scramble":
        x = x.reshape(n, -1)[:, world["scramble"]].reshape(x.shape)
    elif name == "contrast":
        x = x * world["gain"] + world["offset"]
    x = x + rng.normal(0, SENSOR_NOISE, x.shape)
    return x.reshape(n, -1).astype(np.float32)


def all_categories(pictures, labels, draws, world, rng):
    """Every picture ``draws`` times in every category: pixels, labels, category and number of the picture."""
    pixels, which, digit, source = [], [], [], []
    for category in range(len(CATEGORIES)):
        for _ in range(draws):
            pixels.append(corrupt(pictures, category, world, rng))
            which.append(np.full(len(pictures), category, np.uint8))
            digit.append(labels)
            source.append(np.arange(len(pictures)))
    return {
        "pixels": np.concatenate(pixels),
        "labels": np.concatenate(digit).astype(np.uint8),
        "category": np.concatenate(which),
        "picture": np.concatenate(source).astype(np.int32),
    }
