"""A small maze with a hidden goal: many mazes side by side in NumPy. The referee plays exactly these rules.

    mazes = MetaMaze(64, seed=0)
    observations = mazes.reset()
    observations, rewards, done = mazes.step(actions)

Rules. The maze is always the same: 9x9 cells, closed all around, with a pillar wherever row and column are both odd
(counted from 0), which leaves 65 open cells. Each episode has a goal, one of the 65 cells, drawn evenly; it cannot
be seen and stays the same for the episode. The agent starts in the middle (row 4, column 4). A step:

1. The action moves the agent one cell: 0 up, 1 right, 2 down, 3 left. At a wall or a pillar it stays where it is.
2. If it stands on the goal now, the reward is 10, and it is at once moved to one of the 65 cells, drawn evenly
   (perhaps to the goal itself: that alone earns nothing and ends nothing). Otherwise the reward is 0.

An episode has exactly ``horizon`` steps. Then all slots begin a new one at once.

An observation has 15 numbers: the 3x3 cells around the agent, row by row (1 = wall or pillar, 0 = open); the last
action (4 numbers, 1 for the one that was taken; all 0 at the beginning); the last reward; the number of steps played.
"""

import numpy as np

SIZE = 9
ACTIONS = 4
MOVES = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]])
OBSERVATION_SHAPE = (15,)
PRIZE = 10.0
OPEN = np.zeros((SIZE + 2, SIZE + 2), bool)
"""Which cells are open, with a border of walls: the maze's cell (row, column) is at [row + 1, column + 1]."""
OPEN[1:-1, 1:-1] = True
OPEN[2:-1:2, 2:-1:2] = False
CELLS = np.argwhere(OPEN)
"""The 65 open cells, as indices into OPEN."""
AROUND = np.array([(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)])
MIDDLE = SIZE // 2 + 1


class MetaMaze:
    """``n`` mazes.

    Args:
        n: how many episodes are played side by side.
        seed: decides on goals and on where agents are moved to.
        horizon: steps of an episode.
    """

    def __init__(self, n, seed, horizon=200):
        self.n, self.horizon = n, horizon
        self._rng = np.random.default_rng(seed)
        self._slots = np.arange(n)
        self.goal = self.position = np.zeros((n, 2), np.int64)
        self.last_action, self.last_reward, self.steps = np.full(n, -1), np.zeros(n, np.float32), 0

    def reset(self, goals=None):
        """Begin a new episode in every slot; ``goals`` (n,): numbers of cells 0 to 64; default: at random."""
        drawn = self._rng.integers(0, len(CELLS), self.n)
        self.goal = CELLS[drawn if goals is None else np.asarray(goals)]
        self.position = np.full((self.n, 2), MIDDLE)
        self.last_action, self.last_reward, self.steps = np.full(self.n, -1), np.zeros(self.n, np.float32), 0
        return self.observe()

    def observe(self):
        """What an agent sees: float32 (n, 15), as described above."""
        seen = np.zeros((self.n, *OBSERVATION_SHAPE), np.float32)
        around = self.position[:, None] + AROUND
        seen[:, :9] = ~OPEN[around[..., 0], around[..., 1]]
        if self.steps:
            seen[self._slots, 9 + self.last_action] = 1
        seen[:, 13] = self.last_reward
        seen[:, 14] = self.steps
        return seen

    def step(self, actions):
        """Play one step in every slot.

        Args:
            actions: (n,) integers 0 to 3.

        Returns:
            Observations after the step (at the end of episodes: of the new ones), rewards (n,) float32, and done
            (n,) bool: whether the slot's episode ended with this step.
        """
        self.last_action = np.asarray(actions, np.int64)
        aimed = self.position + MOVES[self.last_action]
        free = OPEN[aimed[:, 0], aimed[:, 1]]
        position = np.where(free[:, None], aimed, self.position)
        found = (position == self.goal).all(1)
        elsewhere = CELLS[self._rng.integers(0, len(CELLS), self.n)]
        self.position = np.where(found[:, None], elsewhere, position)
        self.last_reward = (PRIZE * found).astype(np.float32)
        self.steps += 1
        rewards, over = self.last_reward, self.steps >= self.horizon
        return (self.reset() if over else self.observe()), rewards, np.full(self.n, over)
