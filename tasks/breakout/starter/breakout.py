"""Breakout on a 10x10 grid: many games side by side in NumPy. The referee plays exactly these rules.

    games = Breakout(64, seed=0)
    observations = games.reset()
    observations, rewards, done = games.step(actions)

Rules. Row 0 is the top, row 9 the bottom. The paddle is one cell of row 9 and starts in column 4. Rows 1 to 3 are
full of bricks. The ball starts in row 3, in column 0 moving right or in column 9 moving left, downwards. A step:

1. The paddle moves by the action: 0 stay, 1 left, 2 right; it stops at the walls. With probability ``sticky`` the
   action of the step before is carried out instead.
2. The ball aims one cell further on its diagonal. At a wall it stays in its column and turns sideways; at the
   ceiling it stays in its row and turns downwards.
3. If there is a brick in the cell it aims at: the brick is gone (reward 1), the ball moves only sideways, and its
   vertical direction turns.
4. If it aims at the bottom row: with the paddle straight below the ball (in the column it comes from) it turns
   upwards; with the paddle in the cell it aims at it turns upwards and sideways; either way it moves only
   sideways, in row 8. Without the paddle the game is over. If all bricks are gone when it aims at the bottom row,
   three new rows appear.

A game also ends after ``horizon`` steps. A slot whose game has ended begins a new one at once.
"""

import numpy as np

SIZE = 10
ACTIONS = 3
STAY, LEFT, RIGHT = range(ACTIONS)
PADDLE, BALL, TRAIL, BRICK = range(4)
"""The channels of an observation; the trail is where the ball was one step ago."""
OBSERVATION_SHAPE = (SIZE, SIZE, 4)
BOTTOM, FIRST_ROW, BRICK_ROWS = SIZE - 1, 3, slice(1, 4)


class Breakout:
    """``n`` games.

    Args:
        n: how many games are played side by side.
        seed: decides on which side balls start, and which actions stick.
        horizon: steps after which a game ends anyway.
        sticky: probability that the last action is repeated.
    """

    def __init__(self, n, seed, horizon=1000, sticky=0.0):
        self.n, self.horizon, self.sticky = n, horizon, sticky
        self._rng = np.random.default_rng(seed)
        self._slots = np.arange(n)
        self.column, self.row, self.side, self.fall, self.trail_column, self.trail_row, self.paddle, self.steps = (
            np.zeros(n, np.int64) for _ in range(8)
        )
        self.bricks = np.zeros((n, SIZE, SIZE), bool)
        self.last_action = np.zeros(n, np.int64)

    def reset(self, left=None):
        """Begin a new game in every slot; ``left`` (n,) bool: where the ball starts; default: at random."""
        self._begin(np.ones(self.n, bool), left)
        return self.observe()

    def _begin(self, chosen, left=None):
        """Set the chosen slots (n,) bool to the beginning of a game."""
        at_left = self._rng.random(self.n) < 0.5 if left is None else np.asarray(left, bool)
        self.column[chosen] = np.where(at_left, 0, SIZE - 1)[chosen]
        self.side[chosen] = np.where(at_left, 1, -1)[chosen]
        self.row[chosen], self.fall[chosen], self.paddle[chosen] = FIRST_ROW, 1, SIZE // 2 - 1
        self.trail_column[chosen], self.trail_row[chosen] = self.column[chosen], self.row[chosen]
        self.steps[chosen] = self.last_action[chosen] = 0
        self.bricks[chosen] = False
        self.bricks[chosen, BRICK_ROWS] = True

    def observe(self):
        """What an agent sees: uint8 (n, 10, 10, 4), 1 where something is; the channels are named above."""
        seen = np.zeros((self.n, *OBSERVATION_SHAPE), np.uint8)
        seen[self._slots, BOTTOM, self.paddle, PADDLE] = 1
        seen[self._slots, self.row, self.column, BALL] = 1
        seen[self._slots, self.trail_row, self.trail_column, TRAIL] = 1
        seen[..., BRICK] = self.bricks
        return seen

    def step(self, actions):
        """Play one step in every slot.

        Args:
            actions: (n,) integers 0, 1 or 2.

        Returns:
            Observations after the step (where a game ended: of the new game), rewards (n,) float32, and done
            (n,) bool: whether the slot's game ended with this step.
        """
        actions = np.asarray(actions, np.int64)
        if self.sticky:
            actions = np.where(self._rng.random(self.n) < self.sticky, self.last_action, actions)
        self.last_action[:] = actions
        self.paddle = np.clip(self.paddle + (actions == RIGHT) - (actions == LEFT), 0, SIZE - 1)

        old_column, old_row = self.column, self.row
        column, row = old_column + self.side, old_row + self.fall
        at_wall, at_ceiling = (column < 0) | (column >= SIZE), row < 0
        column = np.where(at_wall, old_column, column)
        row = np.where(at_ceiling, 0, row)
        side = np.where(at_wall, -self.side, self.side)
        fall = np.where(at_ceiling, 1, self.fall)

        hit = self.bricks[self._slots, row, column]
        self.bricks[self._slots[hit], row[hit], column[hit]] = False

        at_bottom = row == BOTTOM
        self.bricks[at_bottom & ~self.bricks.any((1, 2)), BRICK_ROWS] = True
        below = at_bottom & (self.paddle == old_column)
        ahead = at_bottom & ~below & (self.paddle == column)
        turned = hit | below | ahead
        self.row = np.where(turned, old_row, row)
        self.column = column
        self.fall = np.where(turned, -fall, fall)
        self.side = np.where(ahead, -side, side)
        self.trail_column, self.trail_row = old_column.copy(), old_row.copy()

        self.steps += 1
        done = (at_bottom & ~below & ~ahead) | (self.steps >= self.horizon)
        if done.any():
            self._begin(done)
        return self.observe(), hit.astype(np.float32), done
