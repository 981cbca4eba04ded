"""The hidden partners: six ways to settle who gives way in the battle of the sexes. Standard library only.

Both players choose an evening, 0 or 1. Apart they earn nothing; together at 0 the player earns 2 and the partner 1,
together at 1 it is the other way round. A kind is a function ``kind(history, chance, bias)``: ``history`` is a list
of ``(own, other)`` choices as the partner sees them, ``chance`` a fresh number in [0, 1), ``bias`` how faithfully it
follows its rule, in (0.5, 1]. Every partner gets exactly one such number per round, used or not: what chance brings
does not depend on what anybody plays.
"""

OURS, THEIRS = 0, 1
PAYOFF = ((2, 0), (0, 1))
"""Points of the player by (player's choice, partner's choice)."""


def follower(history, chance, bias):
    """Choose its own evening first, then what the other chose in the very first round."""
    if not history:
        return THEIRS
    first = history[0][1]
    return first if chance < bias else 1 - first


def stubborn(history, chance, bias):
    """Choose its own evening whatever happens."""
    return THEIRS if chance < bias else OURS


def copier(history, chance, bias):
    """Choose its own evening first, then what the other chose last."""
    if not history:
        return THEIRS
    last = history[-1][1]
    return last if chance < bias else 1 - last


def alternator(history, chance, bias):
    """Take turns, beginning with its own evening."""
    turn = THEIRS if len(history) % 2 == 0 else OURS
    return turn if chance < bias else 1 - turn


def learner(history, chance, bias):
    """Choose what pays best against the share of evenings that the other chose so far."""
    ours = sum(other == OURS for _, other in history) + 1
    theirs = len(history) + 2 - ours
    best = THEIRS if 2 * theirs > ours else OURS
    return best if chance < bias else 1 - best


def switcher(history, chance, bias):
    """Stay with an evening that was spent together, change after one apart."""
    if not history:
        return THEIRS
    own, other = history[-1]
    then = own if own == other else 1 - own
    return then if chance < bias else 1 - then


KINDS = (follower, stubborn, copier, alternator, learner, switcher)
PAPER_BIAS = 0.8
"""How faithfully the only partner of the paper's game, a follower, copies the first choice."""


def draw_world(rng):
    """Draw what the partners of an installation are like: each kind's share of the matches and its usual bias."""
    weights = [rng.uniform(0.75, 1.25) for _ in KINDS]
    return {
        "share": [weight / sum(weights) for weight in weights],
        "bias": [rng.uniform(0.82, 0.90) for _ in KINDS],
    }


class Match:
    """One match, seen by the referee: a kind of partner, its bias, a length and the match's own luck."""

    def __init__(self, rng, *, kind, bias, rounds):
        self.kind = kind
        self.rounds = rounds
        self.points = 0
        self.history = []  # (player, partner)
        self._bias = bias
        self._rng = rng

    def over(self):
        """Whether all rounds are played."""
        return len(self.history) >= self.rounds

    def mean(self):
        """The player's points per round."""
        return self.points / len(self.history)

    def play(self, move):
        """Play one round; returns (player's choice, partner's choice)."""
        chance = self._rng.random()
        answer = self.kind([(theirs, mine) for mine, theirs in self.history], chance, self._bias)
        self.history.append((move, answer))
        self.points += PAYOFF[move][answer]
        return move, answer


def schedule(count, params, world, rng_of):
    """All matches of an evaluation, in an order that does not tell the kinds.

    Args:
        count: how many.
        params: ``rounds_low``, ``rounds_high``, ``paper`` (only followers, as in the paper's game).
        world: of :func:`draw_world`.
        rng_of: gives a ``random.Random`` for a name.
    """
    kinds = [0] * count if params["paper"] else portions(count, world["share"])
    matches = []
    for number, kind in enumerate(kinds):
        rng = rng_of(f"match {number}")
        bias = PAPER_BIAS if params["paper"] else world["bias"][kind] + rng.uniform(-0.08, 0.08)
        rounds = rng.randint(params["rounds_low"], params["rounds_high"])
        matches.append(Match(rng, kind=KINDS[kind], bias=bias, rounds=rounds))
    rng_of("order").shuffle(matches)
    return matches


def portions(count, shares):
    """Numbers of kinds, ``count`` in all, each kind as often as its share says (largest remainders)."""
    exact = [count * share for share in shares]
    whole = [int(value) for value in exact]
    by_rest = sorted(range(len(shares)), key=lambda kind: whole[kind] - exact[kind])
    for kind in by_rest[: count - sum(whole)]:
        whole[kind] += 1
    return [kind for kind, times in enumerate(whole) for _ in range(times)]
