"""Rows of a linear model with correlated columns and noise."""


def rows(weights, count, rng):
    """``count`` rows of x values and y."""
    made = []
    for _ in range(count):
        common = rng.gauss(0, 1)
        x = [0.7 * common + 0.7 * rng.gauss(0, 1) for _ in weights]
        made.append((x, sum(a * w for a, w in zip(x, weights, strict=True)) + rng.gauss(0, 1)))
    return made
