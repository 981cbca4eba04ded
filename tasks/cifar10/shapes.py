"""Ten shapes as signed distances, and the painting of many of them at once into small colour images.

Coordinates: a picture spans -1 to 1 in both directions, x to the right and y down. A shape lives in a frame of its
own in which it fills about the square from -1 to 1; its distance is negative inside. Distances need not be exact:
only their sign and their size near the edge count, where they make the edge smooth.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Plane = np.ndarray
"""A float32 array of shape (images, side, side)."""


def disc(u: Plane, v: Plane) -> Plane:
    """A filled circle."""
    return np.hypot(u, v) - 0.82


def ring(u: Plane, v: Plane) -> Plane:
    """A circle with a hole."""
    return np.abs(np.hypot(u, v) - 0.66) - 0.2


def square(u: Plane, v: Plane) -> Plane:
    """A filled square."""
    return np.maximum(np.abs(u), np.abs(v)) - 0.72


def frame(u: Plane, v: Plane) -> Plane:
    """A square with a square hole."""
    return np.abs(np.maximum(np.abs(u), np.abs(v)) - 0.6) - 0.18


def triangle(u: Plane, v: Plane) -> Plane:
    """A triangle that stands on a side."""
    return np.maximum(v - 0.6, 0.866 * np.abs(u) - 0.5 * v - 0.5)


def star(u: Plane, v: Plane) -> Plane:
    """A star with five points."""
    turn = 2 * np.pi / 5
    radius, angle = np.hypot(u, v), np.arctan2(u, -v)
    folded = np.abs((angle + turn / 2) % turn - turn / 2)
    # In the folded sector an edge runs from the point (radius 1, angle 0) to the notch (radius 0.42, half a turn).
    return 0.62 * (radius * (np.cos(folded) + 2.05 * np.sin(folded)) - 1.0)


def cross(u: Plane, v: Plane) -> Plane:
    """Two crossing bars."""
    across, along = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(across - 0.85, along - 0.27), np.maximum(across - 0.27, along - 0.85))


def moon(u: Plane, v: Plane) -> Plane:
    """A crescent, open to the right."""
    return np.maximum(np.hypot(u, v) - 0.85, 0.72 - np.hypot(u - 0.42, v))


def bars(u: Plane, v: Plane) -> Plane:
    """Three lying bars, one above the other."""
    nearest = np.abs(v - np.clip(np.round(v / 0.6), -1, 1) * 0.6)
    return np.maximum(np.abs(u) - 0.8, nearest - 0.17)


def arrow(u: Plane, v: Plane) -> Plane:
    """An arrow that points up."""
    head = np.maximum(v - 0.0, 0.75 * np.abs(u) - 0.62 * v - 0.56)
    shaft = np.maximum(np.abs(u) - 0.22, np.abs(v - 0.4) - 0.5)
    return np.minimum(head, shaft)


SHAPES: dict[str, Callable[[Plane, Plane], Plane]] = {
    shape.__name__: shape for shape in (disc, ring, square, frame, triangle, star, cross, moon, bars, arrow)
}


@dataclass(frozen=True)
class Placing:
    """How each of n shapes lies in its picture: arrays of n numbers.

    Attributes:
        kind: which shape, an index into ``SHAPES``.
        x: the middle's place, from -1 to 1.
        y: the same, downwards.
        size: half the shape's side; 1 fills the picture.
        turn: rotation in radians.
        shear: how much the frame leans.
        alpha: opacity from 0 to 1.
        stripes: strength of a brightness wave across the shape, relative to its colour.
        waves: radians of that wave in one length of the shape's frame.
    """

    kind: np.ndarray
    x: np.ndarray
    y: np.ndarray
    size: np.ndarray
    turn: np.ndarray
    shear: np.ndarray
    alpha: np.ndarray
    stripes: np.ndarray
    waves: np.ndarray


def grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """The x and the y of the middles of all pixels, each (side, side), float32."""
    line = ((np.arange(side) + 0.5) / side * 2 - 1).astype(np.float32)
    x, y = np.meshgrid(line, line)
    return x, y


def paint(images: np.ndarray, placing: Placing, colours: np.ndarray) -> None:
    """Paint one shape into each image, in place.

    Args:
        images: float32 (n, side, side, 3), from 0 to 1.
        placing: where and how.
        colours: float32 (n, 3).
    """
    side = images.shape[1]
    x, y = grid(side)
    for kind, distance in enumerate(SHAPES.values()):
        chosen = np.flatnonzero(placing.kind == kind)
        if not len(chosen):
            continue

        def of(values: np.ndarray, chosen: np.ndarray = chosen) -> np.ndarray:
            return values[chosen].astype(np.float32)[:, None, None]

        size = of(placing.size)
        left, down = (x - of(placing.x)) / size, (y - of(placing.y)) / size
        cos, sin = np.cos(of(placing.turn)), np.sin(of(placing.turn))
        u, v = cos * left + sin * down, cos * down - sin * left
        u += of(placing.shear) * v
        cover = np.clip(0.5 - distance(u, v) * size * (side / 2), 0, 1) * of(placing.alpha)
        wave = 1 + of(placing.stripes) * np.sin(of(placing.waves) * (u + v))
        paint = wave[..., None] * colours[chosen][:, None, None]
        images[chosen] += cover[..., None] * (paint - images[chosen])
