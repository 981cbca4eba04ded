"""The hidden opponents: eleven textbook rules for the iterated prisoner's dilemma. Standard library only.

0 is to cooperate, 1 is to defect. A rule is a function ``rule(history, chance)``: ``history`` is a list of
``(own, other)`` moves as the opponent sees them, ``chance`` a fresh number in [0, 1). Every rule gets exactly one
such number per round, used or not: what chance brings does not depend on what anybody plays.
"""

C, D = 0, 1
PAYOFF = ((3, 0), (5, 1))
"""Points of the first player by (first's move, second's move)."""


def always_cooperate(history, chance):
    """Cooperate."""
    return C


def always_defect(history, chance):
    """Defect."""
    return D


def coin(history, chance):
    """Toss a coin."""
    return D if chance < 0.5 else C


def tit_for_tat(history, chance):
    """Begin friendly, then do what the other just did."""
    return history[-1][1] if history else C


def suspicious_tit_for_tat(history, chance):
    """As tit for tat, but begin with a defection."""
    return history[-1][1] if history else D


def tit_for_two_tats(history, chance):
    """Defect only after two defections in a row."""
    return D if len(history) > 1 and history[-1][1] == D and history[-2][1] == D else C


def generous_tit_for_tat(history, chance):
    """As tit for tat, but forgive three defections in ten."""
    return D if history and history[-1][1] == D and chance >= 0.3 else C


def joss(history, chance):
    """As tit for tat, but defect unprovoked now and then."""
    return D if chance < 0.1 else tit_for_tat(history, chance)


def grim(history, chance):
    """Never forgive a defection."""
    return D if any(other == D for _, other in history) else C


def win_stay_lose_shift(history, chance):
    """Cooperate after equal moves, defect after different ones."""
    return C if not history or history[-1][0] == history[-1][1] else D


def prober(history, chance):
    """Begin D, C, C; exploit for ever whoever took that in silence, else play tit for tat."""
    if len(history) < 3:
        return (D, C, C)[len(history)]
    silent = history[1][1] == C and history[2][1] == C
    return D if silent else history[-1][1]


RULES = (
    always_cooperate,
    always_defect,
    coin,
    tit_for_tat,
    suspicious_tit_for_tat,
    tit_for_two_tats,
    generous_tit_for_tat,
    joss,
    grim,
    win_stay_lose_shift,
    prober,
)


class Match:
    """One match, seen by the referee: a rule, a length, a noise level and its own luck.

    With ``rule`` None a fresh random rule moves in each round.
    """

    def __init__(self, rng, *, rule, rounds, noise):
        self.rule = rule
        self.rounds = rounds
        self.noise = noise
        self.points = 0
        self.history = []  # (player, opponent), as played
        self._rng = rng

    def over(self):
        """Whether all rounds are played."""
        return len(self.history) >= self.rounds

    def mean(self):
        """The player's points per round."""
        return self.points / len(self.history)

    def play(self, move):
        """Play one round; returns (player's move, opponent's move) as they were carried out."""
        which, chance, slip, other_slip = (self._rng.random() for _ in range(4))
        rule = RULES[int(which * len(RULES)) if self.rule is None else self.rule]
        answer = rule([(theirs, mine) for mine, theirs in self.history], chance)
        done = (move ^ (slip < self.noise), answer ^ (other_slip < self.noise))
        self.history.append(done)
        self.points += PAYOFF[done[0]][done[1]]
        return done


def schedule(params, noise, rng_of):
    """All matches of an evaluation: equally many against each rule, in an order that does not tell the rules.

    Args:
        params: ``matches_per_rule``, ``rounds_low``, ``rounds_high``, ``paper``.
        noise: the probability that a move is carried out wrongly.
        rng_of: gives a ``random.Random`` for a name.
    """
    matches = []
    for number in range(params["matches_per_rule"] * len(RULES)):
        rng = rng_of(f"match {number}")
        rounds = rng.randint(params["rounds_low"], params["rounds_high"])
        rule = None if params["paper"] else number % len(RULES)
        matches.append(Match(rng, rule=rule, rounds=rounds, noise=noise))
    rng_of("order").shuffle(matches)  # who counts calls must not learn who is met again
    return matches
