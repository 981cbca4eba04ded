"""Small pictures of one to three coloured things on a cloudy ground.

Coordinates: a picture spans -1 to 1 in both directions, x to the right and y down. What the secret world decides of
the looks: which colours there are and their exact shades, the grounds, the noise.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIDE = 40
FINE = 4
"""Shapes are drawn this much larger and then reduced, which makes their edges smooth."""

COLOURS = {
    "red": (0.88, 0.14, 0.14),
    "green": (0.13, 0.62, 0.2),
    "blue": (0.18, 0.28, 0.92),
    "yellow": (0.95, 0.9, 0.2),
    "purple": (0.55, 0.2, 0.75),
    "orange": (0.98, 0.52, 0.1),
    "white": (0.97, 0.97, 0.97),
    "black": (0.06, 0.06, 0.06),
    "pink": (0.98, 0.6, 0.75),
    "brown": (0.42, 0.25, 0.12),
    "cyan": (0.2, 0.88, 0.9),
}
COLOURS_IN_A_WORLD = 8
APART = 0.55
"""Two things in a picture are at least this far from each other, in x or in y."""

Polygon = list[tuple[float, float]]


@dataclass(frozen=True)
class Thing:
    """One thing in a picture: what is said of it, and how exactly it lies there."""

    shape: str
    colour: str
    large: bool
    x: float
    y: float
    size: float
    turn: float


@dataclass(frozen=True)
class Look:
    """The secret numbers of this world's pictures.

    Attributes:
        colours: the shade of each colour that there is, three numbers from 0 to 1.
        grounds: colours of grounds, (k, 3).
        clouds: strengths of coarse and fine clouds.
        noise: standard deviation of pixel noise.
    """

    colours: dict[str, np.ndarray]
    grounds: np.ndarray
    clouds: tuple[float, float]
    noise: float


def _round(radius: float, x: float = 0.0) -> Polygon:
    """A circle around (x, 0)."""
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    return [(x + radius * np.cos(a), radius * np.sin(a)) for a in angles]


def _box(left: float, top: float, right: float, bottom: float) -> Polygon:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _star() -> Polygon:
    angles = np.arange(10) * np.pi / 5
    return [(r * np.sin(a), -r * np.cos(a)) for a, r in zip(angles, [1.0, 0.42] * 5, strict=True)]


SHAPES: dict[str, list[tuple[int, Polygon]]] = {
    "circle": [(1, _round(0.9))],
    "ring": [(1, _round(0.9)), (0, _round(0.5))],
    "square": [(1, _box(-0.8, -0.8, 0.8, 0.8))],
    "frame": [(1, _box(-0.85, -0.85, 0.85, 0.85)), (0, _box(-0.45, -0.45, 0.45, 0.45))],
    "triangle": [(1, [(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)])],
    "star": [(1, _star())],
    "cross": [(1, _box(-0.9, -0.28, 0.9, 0.28)), (1, _box(-0.28, -0.9, 0.28, 0.9))],
    "moon": [(1, _round(0.9)), (0, _round(0.75, 0.45))],
    "bars": [(1, _box(-0.85, y - 0.2, 0.85, y + 0.2)) for y in (-0.65, 0.0, 0.65)],
    "arrow": [(1, [(0.0, -1.0), (0.8, -0.05), (-0.8, -0.05)]), (1, _box(-0.25, -0.1, 0.25, 0.95))],
}
"""Every shape as polygons that are filled (1) or cut out (0) one after the other."""


def draw_look(rng: np.random.Generator) -> Look:
    """Draw the secret numbers."""
    chosen = rng.permutation(list(COLOURS))[:COLOURS_IN_A_WORLD]
    shades = {str(name): np.clip(np.array(COLOURS[name]) + rng.uniform(-0.05, 0.05, 3), 0, 1) for name in chosen}
    return Look(
        colours=shades,
        grounds=rng.uniform(0.42, 0.7, (3, 1)) + rng.uniform(-0.1, 0.1, (3, 3)),
        clouds=(rng.uniform(0.05, 0.07), rng.uniform(0.025, 0.035)),
        noise=rng.uniform(0.027, 0.033),
    )


def draw_things(look: Look, rng: np.random.Generator) -> list[Thing]:
    """One to three things that do not touch, larger ones first."""
    places: list[np.ndarray] = []
    count = int(rng.integers(1, 4))
    while len(places) < count:
        place = rng.uniform(-0.62, 0.62, 2)
        if all(np.abs(place - other).max() > APART for other in places):
            places.append(place)
        elif rng.random() < 0.02:
            places.clear()  # these places leave no room for another
    things = []
    for x, y in places:
        large = bool(rng.random() < 0.5)
        things.append(
            Thing(
                shape=str(rng.choice(list(SHAPES))),
                colour=str(rng.choice(list(look.colours))),
                large=large,
                x=float(x),
                y=float(y),
                size=rng.uniform(0.34, 0.42) if large else rng.uniform(0.17, 0.23),
                turn=rng.uniform(-0.3, 0.3),
            )
        )
    return sorted(things, key=lambda thing: -thing.size)


def render(look: Look, scenes: list[list[Thing]], rng: np.random.Generator) -> np.ndarray:
    """Paint the scenes: uint8 (n, 40, 40, 3)."""
    pictures = np.empty((len(scenes), SIDE, SIDE, 3), np.uint8)
    for number, things in enumerate(scenes):
        picture = _ground(look, rng)
        for thing in things:
            picture += _cover(thing)[..., None] * (look.colours[thing.colour] - picture)
        picture += look.noise * rng.standard_normal(picture.shape, np.float32)
        pictures[number] = np.clip(picture, 0, 1) * 255
    return pictures


def _ground(look: Look, rng: np.random.Generator) -> np.ndarray:
    picture = np.tile(look.grounds[rng.integers(len(look.grounds))].astype(np.float32), (SIDE, SIDE, 1))
    for strength, cells in zip(look.clouds, (5, 11), strict=True):
        weights = _enlarging(cells)
        coarse = rng.standard_normal((3, cells, cells), np.float32)
        picture += strength * (weights @ coarse @ weights.T).transpose(1, 2, 0)
    return picture


def _enlarging(cells: int) -> np.ndarray:
    """The matrix (40, cells) that enlarges a line of numbers by linear interpolation."""
    place = np.linspace(0, cells - 1.001, SIDE)
    low = place.astype(int)
    weights = np.zeros((SIDE, cells), np.float32)
    weights[np.arange(SIDE), low] = 1 - place % 1
    weights[np.arange(SIDE), low + 1] = place % 1
    return weights


def _cover(thing: Thing) -> np.ndarray:
    """How much of each pixel a thing covers, from 0 to 1: (40, 40)."""
    mask = Image.new("L", (SIDE * FINE, SIDE * FINE))
    draw = ImageDraw.Draw(mask)
    for filled, polygon in SHAPES[thing.shape]:
        draw.polygon(list(_placed(thing, polygon)), fill=255 * filled)
    return np.asarray(mask.reduce(FINE), np.float32) / 255


def _placed(thing: Thing, polygon: Polygon) -> Iterator[tuple[float, float]]:
    """The polygon's points in fine pixels."""
    cos, sin = np.cos(thing.turn) * thing.size, np.sin(thing.turn) * thing.size
    half = SIDE * FINE / 2
    for u, v in polygon:
        yield (thing.x + cos * u - sin * v + 1) * half, (thing.y + sin * u + cos * v + 1) * half
