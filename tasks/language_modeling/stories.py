"""Stories of a small world, one a line: persons go, take, give, count, compare, and what is said of them is true.

A story remembers who is where, who holds what and how old everybody is, so that whoever reads far back can
foretell more. Each visible choice's probability is counted: the sum of their logarithms is what the text costs a
reader who knows the lexicon, the rules, the cast and the topics: no model can do better in the long run.
"""

import math

from lexicon import Weighted

NUMBERS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
]  # fmt: skip
TOPIC, PREFERRED_NOUN, PREFERRED_TRAIT = 0.4, 0.8, 0.75
"""Chances: that a noun is of the story's topics, else that it is one that its verb likes; the same for adjectives."""


class Story:
    """One story being told; ``bits`` is the cost of what was told so far.

    Each kind of sentence is a method; :meth:`text` draws among those that are possible.
    """

    def __init__(self, lexicon, rng):
        self._words, self._rng = lexicon, rng
        self._cast = rng.sample(lexicon.names, rng.randint(2, 4))
        self._topics = Weighted(rng.sample(lexicon.nouns.words, 6))
        self._place, self._age = {}, {}
        self._holds = {person: [] for person in self._cast}
        self.bits = 0.0

    def text(self):
        """The whole story, a line that ends in a newline."""
        sentences = []
        for person in self._cast:
            self._place[person], self._age[person] = self._pick(self._words.places), self._rng.randint(1, 9)
            sentences.append(f"{person} is in the {self._place[person]}.")
        sentences += [self._sentence() for _ in range(self._rng.randint(8, 22))]
        return " ".join(sentences) + "\n"

    # -- choices, counted ------------------------------------------------------------------------------------

    def _pick(self, options):
        """One of equally likely options."""
        self.bits += math.log2(len(options))
        return self._rng.choice(options)

    def _chance(self, probability):
        """Whether something of that probability happens."""
        happens = self._rng.random() < probability
        self.bits -= math.log2(probability if happens else 1 - probability)
        return happens

    def _draw(self, weighted):
        word = weighted.draw(self._rng)
        self.bits -= math.log2(weighted.chance[word])
        return word

    def _mixed(self, parts):
        """A word from one of several weighted lists: ``parts`` are (share, list). The list stays unknown."""
        shares = [share for share, _ in parts]
        word = self._rng.choices(parts, shares)[0][1].draw(self._rng)
        self.bits -= math.log2(sum(share * words.chance.get(word, 0.0) for share, words in parts))
        return word

    def _other(self, person):
        return self._pick([other for other in self._cast if other != person])

    def _trait(self, noun):
        preferred = self._words.traits[noun]
        return self._mixed([(PREFERRED_TRAIT, preferred), (1 - PREFERRED_TRAIT, self._words.adjectives)])

    # -- sentences -------------------------------------------------------------------------------------------

    def _sentence(self):
        person = self._pick(self._cast)
        kinds = [(18, self._goes), (12, self._takes), (8, self._where), (8, self._adds), (6, self._ages)]
        if self._holds[person]:
            kinds += [(12, self._gives), (8, self._counts), (28, self._does)]
        else:
            kinds.append((48, self._does))
        shares = [share for share, _ in kinds]
        share, kind = self._rng.choices(kinds, shares)[0]
        self.bits -= math.log2(share / sum(shares))
        return kind(person)

    def _goes(self, person):
        origin, self._place[person] = self._place[person], self._pick(self._words.places)
        return f"{person} goes from the {origin} to the {self._place[person]}."

    def _takes(self, person):
        noun = self._draw(self._topics)
        self._holds[person].append(f"{self._trait(noun)} {noun}")
        return f"{person} takes the {self._holds[person][-1]}."

    def _gives(self, person):
        other, thing = self._other(person), self._pick(self._holds[person])
        self._holds[person].remove(thing)
        self._holds[other].append(thing)
        return f"{person} gives the {thing} to {other}."

    def _counts(self, person):
        things = self._holds[person]
        named = " and ".join(f"the {thing}" for thing in things)
        return f"now {person} has {NUMBERS[len(things)]} thing{'s' if len(things) > 1 else ''}: {named}."

    def _where(self, person):
        return f"where is {person}? {person} is in the {self._place[person]}."

    def _adds(self, person):
        # Whose turn it was does not show.
        self.bits -= math.log2(len(self._cast))
        first, second = self._pick(range(11)), self._pick(range(11))
        return f"{NUMBERS[first]} plus {NUMBERS[second]} is {NUMBERS[first + second]}."

    def _ages(self, person):
        other = self._other(person)
        mine, theirs = self._age[person], self._age[other]
        end = f"{person if mine > theirs else other} is older" if mine != theirs else "they are the same"
        return f"{person} is {NUMBERS[mine]}, {other} is {NUMBERS[theirs]}, so {end}."

    def _does(self, person):
        verb, several = self._draw(self._words.verbs), self._chance(0.35)
        subject = f"{person} and {self._other(person)}" if several else person
        noun = self._mixed(
            [
                (TOPIC, self._topics),
                ((1 - TOPIC) * PREFERRED_NOUN, self._words.likes[verb]),
                ((1 - TOPIC) * (1 - PREFERRED_NOUN), self._words.nouns),
            ]
        )
        thing = f"{self._trait(noun)} {noun}" if self._chance(0.5) else noun
        near = ""
        if self._chance(0.25):
            near = f" that {self._draw(self._words.acts)}s near the {self._draw(self._words.nouns)}"
        manner = f" {self._pick(self._words.manners)}" if self._chance(0.25) else ""
        return f"{subject} {verb}{'' if several else 's'} the {thing}{near}{manner}."


def tell(lexicon, size, rng):
    """Stories of ``size`` bytes in all (ASCII), cut at the end; returns them and the bits they cost per byte."""
    parts, length, bits = [], 0, 0.0
    while length < size:
        story = Story(lexicon, rng)
        parts.append(story.text())
        length += len(parts[-1])
        bits += story.bits
    return "".join(parts).encode("ascii")[:size], bits / length
