"""Small pictures of a secret world: one shape in front of clutter on a cloudy ground; the shape is the label.

What the world decides: which colours a shape likes and how strongly, the palette of grounds, how far shapes turn,
lean and shrink, how much clutter, noise and covering there is. The ranges are narrow enough that every world is about
equally hard, and wide enough that nobody can make this world's pictures from the code alone.
"""

from dataclasses import dataclass

import numpy as np
from shapes import SHAPES, Placing, grid, paint

SIDE = 32
BATCH = 500
"""Pictures rendered at once: enough to be fast, few enough to stay in the cache."""


@dataclass(frozen=True)
class World:
    """The secret numbers.

    Attributes:
        hues: the favourite hue of each shape, in turns (0 to 1).
        faithful: share of pictures in which a shape has about its favourite hue.
        hue_spread: standard deviation of that hue, in turns.
        palette: colours of grounds, (k, 3).
        ground_spread: standard deviation of a ground's colour around its palette colour.
        clouds: strengths of coarse and fine clouds.
        turn: largest rotation, radians.
        lean: largest shear.
        size: smallest and largest half side.
        contrast: least distance of a shape's colour from its ground's.
        covered: share of pictures with a bar across.
        noise: standard deviation of pixel noise.
    """

    hues: np.ndarray
    faithful: float
    hue_spread: float
    palette: np.ndarray
    ground_spread: float
    clouds: tuple[float, float]
    turn: float
    lean: float
    size: tuple[float, float]
    contrast: float
    covered: float
    noise: float


def draw_world(rng: np.random.Generator) -> World:
    """Draw the secret numbers."""
    kinds = len(SHAPES)
    return World(
        hues=(rng.permutation(kinds) + rng.uniform(-0.3, 0.3, kinds)) / kinds,
        faithful=rng.uniform(0.44, 0.52),
        hue_spread=rng.uniform(0.11, 0.14),
        palette=rng.uniform(0.2, 0.8, (12, 3)),
        ground_spread=rng.uniform(0.08, 0.12),
        clouds=(rng.uniform(0.07, 0.09), rng.uniform(0.04, 0.06)),
        turn=rng.uniform(0.46, 0.52),
        lean=rng.uniform(0.29, 0.35),
        size=(rng.uniform(0.43, 0.47), rng.uniform(0.82, 0.86)),
        contrast=rng.uniform(0.29, 0.33),
        covered=rng.uniform(0.3, 0.36),
        noise=rng.uniform(0.032, 0.038),
    )


def pictures(world: World, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``count`` pictures, uint8 (count, 32, 32, 3), and their labels, uint8 (count,)."""
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    labels = rng.permutation(np.arange(count) % len(SHAPES)).astype(np.uint8)
    for first in range(0, count, BATCH):
        some = labels[first : first + BATCH]
        images[first : first + BATCH] = _batch(world, some, rng)
    return images, labels


def _batch(world: World, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = len(labels)
    ground = world.palette[rng.integers(0, len(world.palette), n)]
    ground = np.clip(ground + rng.normal(0, world.ground_spread, (n, 3)), 0.1, 0.9).astype(np.float32)
    images = np.repeat(np.repeat(ground[:, None, None], SIDE, 1), SIDE, 2)
    for strength, cells in zip(world.clouds, (4, 9), strict=True):
        images += np.float32(strength) * clouds(n, cells, rng)
    for _ in range(2):
        paint(images, _clutter(n, rng), rng.uniform(0, 1, (n, 3)).astype(np.float32))
    paint(images, _main(world, labels, rng), _colours(world, labels, ground, rng))
    _cover(images, world.covered, rng)
    images += np.float32(world.noise) * rng.standard_normal(images.shape, np.float32)
    return (np.clip(images, 0, 1) * 255).astype(np.uint8)


def clouds(n: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth random fields, (n, 32, 32, 3): coarse noise, enlarged by linear interpolation."""
    coarse = rng.standard_normal((n, cells, cells, 3), np.float32)
    place = np.linspace(0, cells - 1.001, SIDE)
    low, share = place.astype(int), (place % 1).astype(np.float32)
    weights = np.zeros((SIDE, cells), np.float32)
    weights[np.arange(SIDE), low] = 1 - share
    weights[np.arange(SIDE), low + 1] = share
    rows = (weights @ coarse.reshape(n, cells, cells * 3)).reshape(n, SIDE, cells, 3)
    return weights @ rows


def _clutter(n: int, rng: np.random.Generator) -> Placing:
    """Small shapes of any kind anywhere."""
    return Placing(
        kind=rng.integers(0, len(SHAPES), n),
        x=rng.uniform(-1, 1, n),
        y=rng.uniform(-1, 1, n),
        size=rng.uniform(0.1, 0.2, n),
        turn=rng.uniform(0, 2 * np.pi, n),
        shear=rng.uniform(-0.3, 0.3, n),
        alpha=rng.uniform(0.4, 0.9, n),
        stripes=rng.uniform(0, 0.3, n),
        waves=rng.uniform(6, 12, n),
    )


def _main(world: World, labels: np.ndarray, rng: np.random.Generator) -> Placing:
    """The shapes that count: large, near the middle."""
    n = len(labels)
    return Placing(
        kind=labels,
        x=rng.uniform(-0.3, 0.3, n),
        y=rng.uniform(-0.3, 0.3, n),
        size=rng.uniform(*world.size, n),
        turn=rng.uniform(-world.turn, world.turn, n),
        shear=rng.uniform(-world.lean, world.lean, n),
        alpha=rng.uniform(0.8, 1.0, n),
        stripes=rng.uniform(0, 0.3, n),
        waves=rng.uniform(5, 10, n),
    )


def _colours(world: World, labels: np.ndarray, ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colours of the main shapes: often a shape's favourite hue, always away from the ground."""
    n = len(labels)
    hue = 2 * np.pi * (world.hues[labels] + rng.normal(0, world.hue_spread, n))
    favourite = 0.5 + 0.45 * np.cos(hue[:, None] - 2 * np.pi / 3 * np.arange(3))
    any_colour = rng.uniform(0, 1, (n, 3))
    colours = np.where(rng.random((n, 1)) < world.faithful, favourite, any_colour)
    away = colours - ground
    length = np.linalg.norm(away, axis=1, keepdims=True)
    wanted = np.maximum(length, rng.uniform(world.contrast, 0.9, (n, 1)))
    return np.clip(ground + away / np.maximum(length, 0.05) * wanted, 0, 1).astype(np.float32)


def _cover(images: np.ndarray, share: float, rng: np.random.Generator) -> None:
    """Draw a bar of one colour across some of the images, in place."""
    chosen = np.flatnonzero(rng.random(len(images)) < share)
    n = len(chosen)
    x, y = grid(SIDE)
    angle = rng.uniform(0, np.pi, (n, 1, 1))
    across = np.cos(angle) * x + np.sin(angle) * y - rng.uniform(-0.8, 0.8, (n, 1, 1))
    bar = np.abs(across) < rng.uniform(0.06, 0.14, (n, 1, 1))
    colour = rng.uniform(0, 1, (n, 1, 1, 3)).astype(np.float32)
    images[chosen] = np.where(bar[..., None], colour, images[chosen])
