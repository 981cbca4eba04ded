"""Reference: no learning at all. Keep track of where we may be and where the goal may be, and walk the shortest way.

The maze is known and an observation shows the walls around, so each reward and each step without one narrows down
both. Everything is done for all episodes side by side.
"""

import numpy as np

SIZE = 9
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
CELLS = [(row, column) for row in range(SIZE) for column in range(SIZE) if not row % 2 or not column % 2]
NUMBER = {cell: number for number, cell in enumerate(CELLS)}
START = NUMBER[SIZE // 2, SIZE // 2]
SPREAD_BONUS = 0.3
"""How many steps of the way it is worth that all places where we may be would look different after a move."""


def around(row, column):
    """The walls that an observation shows at a cell: a tuple of 9."""
    return tuple((row + down, column + right) not in NUMBER for down in (-1, 0, 1) for right in (-1, 0, 1))


def moved(number, action):
    """The cell where an action leads."""
    row, column = CELLS[number]
    down, right = MOVES[action]
    return NUMBER.get((row + down, column + right), number)


def distances():
    """Steps from every cell to every other: (65, 65), by breadth-first search."""
    steps = np.full((len(CELLS), len(CELLS)), 99, np.int8)
    for start in range(len(CELLS)):
        steps[start, start], edge = 0, [start]
        for cell in edge:  # the list grows while we walk along it
            for action in range(len(MOVES)):
                neighbour = moved(cell, action)
                if steps[start, neighbour] == 99:
                    steps[start, neighbour] = steps[start, cell] + 1
                    edge.append(neighbour)
    return steps


STEPS = distances()
AFTER = np.array([[moved(number, action) for number in range(len(CELLS))] for action in range(len(MOVES))])
VIEWS = sorted({around(*cell) for cell in CELLS})
LOOKS = np.array([[around(*cell) == view for view in VIEWS] for cell in CELLS], np.float32)
"""(65, views): what each cell looks like."""


class Policy:
    """Beliefs about many episodes: the cells where we may be, and the cells where the goal may be, (n, 65) bool."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.reset(0)

    def reset(self, n):
        """Begin n episodes."""
        self.here, self.goal = np.zeros((n, len(CELLS)), bool), np.ones((n, len(CELLS)), bool)
        self.here[:, START] = True
        self.last = np.zeros(n, np.int64)

    def act(self, observations, done):
        """The next step for each episode."""
        self._learn(observations, done)
        near = np.where(self.goal[:, None, :], STEPS, 99).min(2).astype(np.float32)
        here = self.here.astype(np.float32)
        count = here.sum(1)
        costs = self.rng.uniform(0, 1e-3, (len(here), len(MOVES)))
        for action, after in enumerate(AFTER):
            costs[:, action] += (near[:, after] * here).sum(1) / count
            views = (here @ LOOKS[after] > 0).sum(1)
            costs[:, action] -= np.where(count > 1, SPREAD_BONUS * views / count, 0)
        self.last = costs.argmin(1)
        return self.last

    def _learn(self, observations, done):
        """Take in what the last step has shown."""
        guess = np.zeros_like(self.here)
        for action, after in enumerate(AFTER):
            for cell, target in enumerate(after):
                guess[:, target] |= self.here[:, cell] & (self.last == action)
        found = observations[:, 13] > 0
        looks = (observations[:, None, :9] == np.array(VIEWS, np.float32)).all(2) @ LOOKS.T > 0
        self.here = np.where(found[:, None], looks, guess & looks)
        self.goal &= np.where(found[:, None], guess, True)
        sure = ~found & (self.here.sum(1) == 1)
        self.goal[sure] &= ~self.here[sure]
        self.here[done], self.goal[done] = np.arange(len(CELLS)) == START, True
        self.goal[~self.goal.any(1)] = True


def make_policy(folder, index):
    """Every index gives the same policy with other dice."""
    return Policy(seed=index)
