"""The hidden opponents: five ways to spread soldiers in Colonel Blotto's game. Standard library only.

Each side spreads 120 soldiers over six fields; whoever has more of them on a field wins it, and whoever wins more
fields wins the round. A style is a function ``style(trait, rng, sharpness)`` that returns an allocation: ``trait`` is
an order of the fields, drawn once per match; ``sharpness`` says how little the commander strays from its plan. No style
looks at what the player did: the opponent's luck and its moves are settled by the match's own seed.
"""

SOLDIERS, FIELDS = 120, 6


def wild(trait, rng, sharpness):
    """Any weight on any field, afresh in each round."""
    return spread([rng.random() for _ in range(FIELDS)], rng)


def even(trait, rng, sharpness):
    """Each soldier goes to a field of its own choice."""
    placed = [0] * FIELDS
    for _ in range(SOLDIERS):
        placed[int(rng.random() * FIELDS)] += 1
    return placed


def gambler(trait, rng, sharpness):
    """All on four fields, the same in the whole match."""
    weights = [0.0] * FIELDS
    for field in trait[:4]:
        weights[field] = rng.gammavariate(20 * sharpness, 1.0)
    return spread(weights, rng)


def vanguard(trait, rng, sharpness):
    """Most on the first field, fewer on each that follows."""
    return spread(sorted((rng.gammavariate(3 * sharpness, 1.0) for _ in range(FIELDS)), reverse=True), rng)


def forsaker(trait, rng, sharpness):
    """About the same on all fields but one, which is given up; the same one in the whole match."""
    weights = [rng.uniform(0.8, 1.2) for _ in range(FIELDS)]
    weights[trait[0]] *= 0.1
    return spread(weights, rng)


STYLES = (wild, even, gambler, vanguard, forsaker)


def spread(weights, rng):
    """Whole soldiers in proportion to weights; those left over by rounding go to one field by chance."""
    total = sum(weights)
    placed = [int(SOLDIERS * weight / total) for weight in weights]
    placed[int(rng.random() * FIELDS)] += SOLDIERS - sum(placed)
    return placed


def result(ours, theirs):
    """1, 0 or -1: whether the first side wins the round, draws or loses it."""
    balance = sum((mine > other) - (mine < other) for mine, other in zip(ours, theirs, strict=True))
    return (balance > 0) - (balance < 0)


def draw_world(rng):
    """Draw what the commanders of an installation are like: each style's share of the matches, and its sharpness."""
    weights = [rng.uniform(0.75, 1.25) for _ in STYLES]
    return {
        "share": [weight / sum(weights) for weight in weights],
        "sharpness": [rng.uniform(0.75, 1.35) for _ in STYLES],
    }


class Match:
    """One match, seen by the referee: a style, its trait, a length and the match's own luck."""

    def __init__(self, rng, *, style, sharpness, rounds):
        self.style = style
        self.rounds = rounds
        self.points = 0
        self.played = 0
        self._sharpness = sharpness
        self._rng = rng
        self._trait = list(range(FIELDS))
        rng.shuffle(self._trait)

    def over(self):
        """Whether all rounds are played."""
        return self.played >= self.rounds

    def mean(self):
        """The player's points per round."""
        return self.points / self.played

    def play(self, allocation):
        """Play one round; returns (player's allocation, opponent's allocation)."""
        answer = self.style(self._trait, self._rng, self._sharpness)
        self.played += 1
        self.points += result(allocation, answer)
        return allocation, answer


def schedule(count, params, world, rng_of):
    """All matches of an evaluation, in an order that does not tell the styles.

    Args:
        count: how many.
        params: ``rounds_low``, ``rounds_high``, ``paper`` (only wild commanders, much as in the paper's game).
        world: of :func:`draw_world`.
        rng_of: gives a ``random.Random`` for a name.
    """
    styles = [0] * count if params["paper"] else portions(count, world["share"])
    matches = []
    for number, style in enumerate(styles):
        rng = rng_of(f"match {number}")
        rounds = rng.randint(params["rounds_low"], params["rounds_high"])
        matches.append(Match(rng, style=STYLES[style], sharpness=world["sharpness"][style], rounds=rounds))
    rng_of("order").shuffle(matches)
    return matches


def portions(count, shares):
    """Numbers of styles, ``count`` in all, each style as often as its share says (largest remainders)."""
    exact = [count * share for share in shares]
    whole = [int(value) for value in exact]
    by_rest = sorted(range(len(shares)), key=lambda style: whole[style] - exact[style])
    for style in by_rest[: count - sum(whole)]:
        whole[style] += 1
    return [style for style, times in enumerate(whole) for _ in range(times)]
