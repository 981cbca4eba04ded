"""What people of a secret world say of a picture: a small grammar with words and habits of their own.

Every world draws which synonyms its people use, how often, which ways of putting a sentence they prefer, and how
often they leave out a size. The five captions of a picture are five such people's.
"""

from dataclasses import dataclass

import numpy as np
from scenes import Thing

NOUNS = {
    "circle": ("circle", "disc", "dot", "ball"),
    "ring": ("ring", "hoop", "loop", "donut"),
    "square": ("square", "box", "block", "tile"),
    "frame": ("frame", "border", "outline", "window"),
    "triangle": ("triangle", "wedge", "pyramid", "tent"),
    "star": ("star", "spark", "asterisk", "badge"),
    "cross": ("cross", "plus", "junction", "crosspiece"),
    "moon": ("moon", "crescent", "sickle", "banana"),
    "bars": ("grating", "ladder", "grid", "stack"),
    "arrow": ("arrow", "pointer", "cursor", "marker"),
}
LARGE = ("large", "big", "huge", "great", "broad")
SMALL = ("small", "tiny", "little", "mini", "slight")
PLACES = {
    "left": ("on the left", "at the left side", "to the left"),
    "right": ("on the right", "at the right side", "to the right"),
    "top": ("at the top", "in the upper part", "near the top"),
    "bottom": ("at the bottom", "in the lower part", "near the bottom"),
    "middle": ("in the middle", "in the centre", "at the centre"),
}
RELATIONS = {
    "left": ("to the left of", "left of", "on the left side of"),
    "right": ("to the right of", "right of", "on the right side of"),
    "top": ("above", "over", "higher than"),
    "bottom": ("below", "under", "lower than"),
}
ALONE = ("{thing} {place}", "there is {thing} {place} of the picture", "{thing} can be seen {place}")
TOGETHER = (
    "{thing} {relation} {other}",
    "{thing} is {relation} {other}",
    "there is {thing} {relation} {other}",
    "the picture shows {thing} {relation} {other}",
)
FURTHER = (" and {third}", " with {third}", " next to {third}", " plus {third}")
NEAR = 0.2
"""Nearer to the middle than this is in the middle."""


@dataclass(frozen=True)
class Choice:
    """Ways to say one thing, with their shares."""

    ways: tuple[str, ...]
    shares: tuple[float, ...]

    def say(self, rng: np.random.Generator) -> str:
        """One of the ways, at random."""
        return self.ways[int(np.searchsorted(np.cumsum(self.shares), rng.random() * 0.999999))]


@dataclass(frozen=True)
class Language:
    """The secret words and habits: a choice of words for each thing to say.

    Attributes:
        nouns: by shape.
        sizes: by whether the thing is large.
        places: by direction, for a thing alone.
        relations: by direction, for two things.
        alone: sentences about one thing.
        together: sentences about two.
        further: how a third is added.
        sized: how often a size is told.
        swapped: how often the smaller of the first two is told first.
    """

    nouns: dict[str, Choice]
    sizes: dict[bool, Choice]
    places: dict[str, Choice]
    relations: dict[str, Choice]
    alone: Choice
    together: Choice
    further: Choice
    sized: float
    swapped: float


def draw_language(rng: np.random.Generator) -> Language:
    """Draw the secret words and habits."""

    def some(ways: tuple[str, ...], count: int = 2) -> Choice:
        """``count`` of the ways: one usual, the others rarer."""
        chosen = tuple(str(way) for way in rng.permutation(ways)[:count])
        usual = rng.uniform(0.62, 0.78)
        rest = rng.dirichlet(np.full(count - 1, 8.0)) * (1 - usual)
        return Choice(chosen, (usual, *map(float, rest)))

    return Language(
        nouns={shape: some(words) for shape, words in NOUNS.items()},
        sizes={True: some(LARGE, 3), False: some(SMALL, 3)},
        places={where: some(words) for where, words in PLACES.items()},
        relations={where: some(words) for where, words in RELATIONS.items()},
        alone=some(ALONE),
        together=some(TOGETHER, 3),
        further=some(FURTHER),
        sized=rng.uniform(0.76, 0.84),
        swapped=rng.uniform(0.16, 0.24),
    )


def describe(language: Language, things: list[Thing], rng: np.random.Generator) -> str:
    """What one person says of one to three things (larger ones come first)."""
    if len(things) == 1:
        place = language.places[_where(things[0].x, things[0].y)].say(rng)
        return language.alone.say(rng).format(thing=_name(language, things[0], rng), place=place)
    first, second = things[:2]
    if rng.random() < language.swapped:
        first, second = second, first
    sentence = language.together.say(rng).format(
        thing=_name(language, first, rng),
        relation=language.relations[_side(first.x - second.x, first.y - second.y)].say(rng),
        other=_name(language, second, rng),
    )
    for third in things[2:]:
        sentence += language.further.say(rng).format(third=_name(language, third, rng))
    return sentence


def _name(language: Language, thing: Thing, rng: np.random.Generator) -> str:
    """A thing with its article."""
    words = [thing.colour, language.nouns[thing.shape].say(rng)]
    if rng.random() < language.sized:
        words.insert(0, language.sizes[thing.large].say(rng))
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def _side(x: float, y: float) -> str:
    """The main direction of a step."""
    if abs(x) > abs(y):
        return "left" if x < 0 else "right"
    return "top" if y < 0 else "bottom"


def _where(x: float, y: float) -> str:
    """Where in the picture a place is."""
    return "middle" if max(abs(x), abs(y)) < NEAR else _side(x, y)
