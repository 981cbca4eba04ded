"""The secret words of an installation, and which of them go together."""

from dataclasses import dataclass
from itertools import accumulate

ONSETS = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "sh", "ch", "br", "tr", "st", "pl"]
VOWELS = ["a", "e", "i", "o", "u", "ai", "ou"]
ENDINGS = ["", "n", "r", "l", "s", "m"]


class Weighted:
    """Words to draw with given weights; knows the probability of each."""

    def __init__(self, words, weights=None):
        self.words = list(words)
        self._sums = list(accumulate(weights or [1.0] * len(self.words)))
        total = self._sums[-1]
        self.chance = {}
        for word, weight in zip(self.words, weights or [1.0] * len(self.words), strict=True):
            self.chance[word] = self.chance.get(word, 0.0) + weight / total

    def draw(self, rng):
        """A word, from a ``random.Random``."""
        return rng.choices(self.words, cum_weights=self._sums)[0]


def ranked(words):
    """Words of which the first are the most frequent, after Zipf."""
    return Weighted(words, [1 / (rank + 1.5) for rank in range(len(words))])


@dataclass(frozen=True)
class Lexicon:
    """Vocabulary of a world.

    Attributes:
        names: persons.
        places: where they may be.
        nouns: what they may hold.
        verbs: transitive verbs; ``acts`` are intransitive, ``manners`` adverbs.
        likes: for each verb the nouns that it prefers.
        traits: for each noun the adjectives that it prefers.
        adjectives: all adjectives.
    """

    names: list[str]
    places: list[str]
    nouns: Weighted
    verbs: Weighted
    acts: Weighted
    manners: list[str]
    likes: dict[str, Weighted]
    traits: dict[str, Weighted]
    adjectives: Weighted


def draw_lexicon(rng):
    """A vocabulary; ``rng`` is a ``random.Random``."""
    taken = set()

    def words(count, syllables):
        made = []
        while len(made) < count:
            word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(rng.choice(syllables)))
            word += rng.choice(ENDINGS)
            if word not in taken:
                taken.add(word)
                made.append(word)
        return made

    nouns, verbs, adjectives = words(220, (1, 2, 2, 3)), words(60, (1, 2)), words(80, (1, 2))
    return Lexicon(
        names=[name.capitalize() for name in words(60, (2,))],
        places=words(40, (2,)),
        nouns=ranked(nouns),
        verbs=ranked(verbs),
        acts=ranked(words(40, (1, 2))),
        manners=[word + "ly" for word in words(30, (2,))],
        likes={verb: ranked(rng.sample(nouns, 20)) for verb in verbs},
        traits={noun: Weighted(rng.sample(adjectives, 8)) for noun in nouns},
        adjectives=ranked(adjectives),
    )
