"""Pairs of sentences and what the first says about the second: a small logic in a world of invented words.

There are four templates. Each first fixes the hypothesis's form and the label, and then draws until a pair has
them: so labels are balanced within every form, and the hypothesis alone gives little away. Logic: "all", "most"
and "no" speak of kinds that exist ("all A are B" entails "some A are B"); "most" is more than half.
"""

from world import NUMBERS, article, doing, plural

ENTAILED, NEUTRAL, CONTRADICTED = 0, 1, 2
LABELS = ("entailment", "neutral", "contradiction")
QUANTIFIERS = ("all", "most", "some", "no")
BOUNDS = ("exactly", "at least", "at most", "more than", "fewer than")
MANY = 10**6


def draw_pairs(world, count, rng, taken):
    """``count`` tuples (premise, hypothesis, label), none of them in ``taken``, to which they are added."""
    templates = (existence, quantity, number, comparison)
    pairs = []
    while len(pairs) < count:
        template, label = rng.choices(templates, (0.3, 0.3, 0.2, 0.2))[0], rng.randrange(3)
        form = template.form(rng)
        while True:
            premise, hypothesis, found = template(world, form, rng)
            if found == label and premise != hypothesis:
                break
        if (premise, hypothesis) not in taken:
            taken.add((premise, hypothesis))
            pairs.append((premise, hypothesis, label))
    return pairs


def form_of(draw):
    """Give a template its way of drawing the hypothesis's form."""

    def decorate(template):
        template.form = draw
        return template

    return decorate


def _existence_form(rng):
    return rng.choice(("a", "no")), rng.choice((0, 1, 1, 2)), rng.random() < 0.5


@form_of(_existence_form)
def existence(world, form, rng):
    """One thing with adjectives, and perhaps a place: "a small brade is drupping in the plonk"."""
    quantifier, adjectives, placed = form
    noun, verb = rng.choice(world.nouns), rng.choice(world.verbs)
    traits, place = rng.sample(world.adjectives, rng.choice((0, 1, 1, 2))), _place(world, rng.random() < 0.5, rng)
    said = rng.choice(("a", "no"))
    other_noun, other_verb = world.near(noun, rng), world.near(verb, rng)
    fresh = [word for word in world.adjectives if word not in traits]
    pool = rng.sample(traits, len(traits)) + rng.sample(fresh, 2)
    if rng.random() < 0.3:
        rng.shuffle(pool)
    other_traits = pool[:adjectives]
    other_place = (place if place and rng.random() < 0.8 else _place(world, True, rng)) if placed else None

    first, second = (noun, verb, traits, place), (other_noun, other_verb, other_traits, other_place)
    label = NEUTRAL
    if said == "a" and _implies(world, first, second):
        label = ENTAILED if quantifier == "a" else CONTRADICTED
    elif said == "no" and _implies(world, second, first):
        label = ENTAILED if quantifier == "no" else CONTRADICTED
    return _one(said, *first), _one(quantifier, *second), label


def _implies(world, first, second):
    """Whether each thing of which ``first`` (noun, verb, adjectives, place) is true is one for ``second``."""
    (noun, verb, traits, place), (other_noun, other_verb, other_traits, other_place) = first, second
    return (
        world.within(noun, other_noun)
        and world.within(verb, other_verb)
        and set(other_traits) <= set(traits)
        and other_place in (None, place)
    )


def _place(world, there, rng):
    return rng.choice(world.places) if there else None


def _one(quantifier, noun, verb, traits, place):
    thing = " ".join([*traits, noun])
    subject = article(thing) if quantifier == "a" else f"no {thing}"
    return f"{subject} is {doing(verb)}" + (f" in the {place}" if place else "")


@form_of(lambda rng: rng.choice(QUANTIFIERS))
def quantity(world, form, rng):
    """How many of a kind: "most brades are drupping"."""
    noun, verb, said = rng.choice(world.nouns), rng.choice(world.verbs), rng.choice(QUANTIFIERS)
    other_noun, other_verb = world.near(noun, rng), world.near(verb, rng)
    label = _quantified(world, (said, noun, verb), (form, other_noun, other_verb))
    return f"{said} {plural(noun)} are {doing(verb)}", f"{form} {plural(other_noun)} are {doing(other_verb)}", label


def _quantified(world, first, second):
    """What one quantified sentence (quantifier, noun, verb) says about another."""
    (said, noun, verb), (asked, other_noun, other_verb) = first, second
    down, up = world.within(other_noun, noun), world.within(noun, other_noun)
    weaker, stronger = world.within(verb, other_verb), world.within(other_verb, verb)
    if said == "no":
        # Nothing of the kind does it; a sentence is refuted if it has something of the kind do it.
        if asked == "no":
            return ENTAILED if down and stronger else NEUTRAL
        refuted = stronger and (down or (asked == "all" and up))
        return CONTRADICTED if refuted else NEUTRAL
    known = {"all": down or up, "most": up, "some": up}[said]  # whether some of the other kind do the other thing
    if not (weaker and known):
        return NEUTRAL
    if asked == "no":
        return CONTRADICTED
    follows = {
        "all": said == "all" and down,
        "most": (said == "all" and down) or (said == "most" and noun == other_noun),
        "some": True,
    }[asked]
    return ENTAILED if follows else NEUTRAL


@form_of(lambda rng: rng.choice(BOUNDS))
def number(world, form, rng):
    """A count with a bound: "there are at least three brades in the plonk"."""
    said, counted = rng.choice(BOUNDS[:3]), rng.randint(2, 9)
    asked = min(max(counted + rng.randint(-3, 3), 2), len(NUMBERS) - 1)
    noun, place = rng.choice(world.nouns), rng.choice(world.places)
    other_noun = world.near(noun, rng) if rng.random() < 0.4 else noun
    other_place = place if rng.random() < 0.9 else rng.choice(world.places)

    (low, high), (other_low, other_high) = _range(said, counted), _range(form, asked)
    label = NEUTRAL
    if place == other_place:
        more, fewer = world.within(noun, other_noun), world.within(other_noun, noun)  # how the two counts compare
        low, high = (low if more else 0), (high if fewer else MANY)
        if other_low <= low and high <= other_high:
            label = ENTAILED
        elif high < other_low or other_high < low:
            label = CONTRADICTED
    premise, hypothesis = _there_are(said, counted, noun), _there_are(form, asked, other_noun)
    # The premise has two word orders, so that "exactly" can be entailed without saying the same words again.
    premise = f"{premise} in the {place}" if rng.random() < 0.5 else f"in the {place} {premise}"
    return premise, f"{hypothesis} in the {other_place}", label


def _range(bound, n):
    return {
        "exactly": (n, n),
        "at least": (n, MANY),
        "at most": (0, n),
        "more than": (n + 1, MANY),
        "fewer than": (0, n - 1),
    }[bound]


def _there_are(bound, n, noun):
    return f"there are {bound} {NUMBERS[n]} {plural(noun)}"


@form_of(lambda rng: rng.randrange(2))
def comparison(world, form, rng):
    """Two facts on three things, a chain or a fork: "the brade is ploofer than the stolm and ..."."""
    scale, names = rng.choice(world.scales), rng.sample(world.things, 4)
    high, middle, low, stranger = names
    facts = [(high, middle), (middle, low)]
    shape = rng.random()
    if shape < 0.2:
        facts = [(high, middle), (low, middle)]
    elif shape < 0.4:
        facts = [(middle, high), (middle, low)]
    rng.shuffle(facts)
    more, less = rng.sample((high, middle, low), 2)
    if rng.random() < 0.1:
        more, less = rng.sample((more, stranger), 2)
    above = set(facts) | {(a, d) for a, b in facts for c, d in facts if b == c}
    label = ENTAILED if (more, less) in above else CONTRADICTED if (less, more) in above else NEUTRAL
    premise = " and ".join(_compare(scale, rng.randrange(2), *fact) for fact in facts)
    return premise, _compare(scale, form, more, less), label


def _compare(scale, side, more, less):
    """One fact, told with either word of the scale."""
    if side == 0:
        return f"the {more} is {scale[0]} than the {less}"
    return f"the {less} is {scale[1]} than the {more}"
