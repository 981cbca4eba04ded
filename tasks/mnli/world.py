"""The secret language of an installation: invented words, and which thing is a kind of which.

No word means anything in English, so nothing can be looked up: that every "brade" is a "stolm" must be learned
from the labelled pairs. A word's knowledge is a chain of ever wider words, itself first.
"""

from dataclasses import dataclass

ONSETS = [
    "b", "bl", "br", "c", "cl", "cr", "d", "dr", "f", "fl", "fr", "g", "gl", "gr", "h", "j", "k", "l", "m", "n",
    "p", "pl", "pr", "r", "s", "sk", "sl", "sm", "sn", "sp", "st", "t", "tr", "v", "w", "z",
]  # fmt: skip
VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ea", "oo", "ai"]
ENDINGS = [
    "b", "ck", "d", "ft", "g", "lk", "ll", "lm", "m", "mp", "n", "nd", "nk", "nt", "p", "rd", "rk", "rm", "rn",
    "rt", "sh", "sk", "st", "t", "x", "ze", "ve", "ff", "by", "ly",
]  # fmt: skip
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
GRAMMAR = {
    "a", "an", "all", "and", "are", "at", "exactly", "fewer", "in", "is", "least", "less", "more", "most", "no",
    "some", "than", "that", "the", "there", *NUMBERS,
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """Vocabulary of a world.

    Attributes:
        wider: for each noun and verb the next wider word, if it has one.
        nouns: all nouns, singular; wide ones included.
        things: the narrowest nouns.
        verbs: all verbs, without ending.
        adjectives: words that narrow a noun.
        places: where something happens.
        scales: pairs of opposite comparatives, each "-er".
    """

    wider: dict[str, str]
    nouns: list[str]
    things: list[str]
    verbs: list[str]
    adjectives: list[str]
    places: list[str]
    scales: list[tuple[str, str]]

    def chain(self, word):
        """The word and all that are wider, nearest first."""
        chain = [word]
        while chain[-1] in self.wider:
            chain.append(self.wider[chain[-1]])
        return chain

    def within(self, narrow, wide):
        """Whether everything that is ``narrow`` is ``wide``."""
        return wide in self.chain(narrow)

    def narrower(self, word):
        """The words directly below."""
        return [below for below, above in self.wider.items() if above == word]

    def near(self, word, rng):
        """A word related to ``word``: the same, a step or two wider, a step narrower, a sibling."""
        step = rng.random()
        if step < 0.25:
            return word
        chain = self.chain(word)
        if step < 0.55 and len(chain) > 1:
            return rng.choice(chain[1:])
        below = self.narrower(word)
        if step < 0.85 and below:
            return rng.choice(below)
        siblings = [other for other in self.narrower(chain[1]) if other != word] if len(chain) > 1 else below
        return rng.choice(siblings or [word])


def draw_world(rng):
    """A vocabulary; ``rng`` is a ``random.Random``."""
    taken = set(GRAMMAR)

    def word():
        while True:
            syllables = rng.choice((1, 1, 2))
            made = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)) + rng.choice(ENDINGS)
            # Words that differ in one ending only could be mistaken for inflections of each other.
            if made not in taken and not any(made.startswith(t) or t.startswith(made) for t in taken if len(t) > 2):
                taken.add(made)
                return made

    wider = {}

    def grow(branches):
        """A forest of words: ``branches`` of each level, from wide to narrow; returns the levels."""
        levels = [[word() for _ in range(branches[0])]]
        for most in branches[1:]:
            level = []
            for above in levels[-1]:
                for _ in range(rng.randint(2, most)):
                    level.append(word())
                    wider[level[-1]] = above
            levels.append(level)
        return levels

    nouns, verbs = grow((4, 3, 3)), grow((3, 3, 2))
    return World(
        wider=wider,
        nouns=[noun for level in nouns for noun in level],
        things=nouns[-1],
        verbs=[verb for level in verbs for verb in level],
        adjectives=[word() for _ in range(8)],
        places=[word() for _ in range(6)],
        scales=[(word() + "er", word() + "er") for _ in range(3)],
    )


def plural(noun):
    """The plural, by the rules of English spelling."""
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def doing(verb):
    """The -ing form."""
    return verb.removesuffix("e") + "ing"


def article(word):
    """The word after "a" or "an"."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
