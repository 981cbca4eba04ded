"""The hidden opponents; the generator and the referee use them, agents never see them."""


def play(rules, last, chance):
    """The opponent's next move after its last one; ``chance`` is a fresh number in [0, 1)."""
    for move, weight in enumerate(rules[last]):
        chance -= weight
        if chance < 0:
            return move
    return 2
