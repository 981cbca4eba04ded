"""The car in the valley with a continuous engine: many cars side by side in NumPy. The referee plays these rules.

    cars = MountainCar(64, seed=0)
    observations = cars.reset()
    observations, rewards, done = cars.step(actions)

Rules (those of the well-known "continuous mountain car"). A car starts at rest at a position drawn evenly from
-0.6 to -0.4. A step with the action ``a`` (clipped to [-1, 1] before anything else):

1. speed += 0.0015 * a - 0.0025 * cos(3 * position), then clipped to [-0.07, 0.07]
2. position += speed, then clipped to [-1.2, 0.6]; a car at -1.2 that moves left is stopped (speed 0)
3. reward = -0.1 * a**2, and +100 if position >= 0.45 and speed >= 0: that ends the episode

An episode also ends after ``horizon`` steps. A slot whose episode has ended begins a new one at once.
"""

import numpy as np

OBSERVATION_SHAPE = (2,)
"""Position and speed."""
POWER, GRAVITY, ACTION_COST = 0.0015, 0.0025, 0.1
LEFT_END, RIGHT_END, TOP_SPEED = -1.2, 0.6, 0.07
GOAL, PRIZE = 0.45, 100.0


class MountainCar:
    """``n`` cars.

    Args:
        n: how many episodes are played side by side.
        seed: decides where cars start.
        horizon: steps after which an episode ends anyway.
    """

    def __init__(self, n, seed, horizon=999):
        self.n, self.horizon = n, horizon
        self._rng = np.random.default_rng(seed)
        self.position, self.speed, self.steps = np.zeros(n), np.zeros(n), np.zeros(n, np.int64)

    def reset(self):
        """Begin a new episode in every slot."""
        self._begin(np.ones(self.n, bool))
        return self.observe()

    def _begin(self, chosen):
        """Set the chosen slots (n,) bool to the beginning of an episode."""
        self.position[chosen] = self._rng.uniform(-0.6, -0.4, self.n)[chosen]
        self.speed[chosen] = self.steps[chosen] = 0

    def observe(self):
        """What an agent sees: float32 (n, 2), position and speed."""
        return np.stack([self.position, self.speed], 1).astype(np.float32)

    def step(self, actions):
        """Play one step in every slot.

        Args:
            actions: (n,) numbers, or (n, 1).

        Returns:
            Observations after the step (where an episode ended: of the new one), rewards (n,) float64, and done
            (n,) bool: whether the slot's episode ended with this step.
        """
        push = np.clip(np.asarray(actions, np.float64).reshape(self.n), -1.0, 1.0)
        speed = self.speed + POWER * push - GRAVITY * np.cos(3 * self.position)
        speed = np.clip(speed, -TOP_SPEED, TOP_SPEED)
        position = np.clip(self.position + speed, LEFT_END, RIGHT_END)
        speed = np.where((position <= LEFT_END) & (speed < 0), 0.0, speed)
        arrived = (position >= GOAL) & (speed >= 0)
        rewards = PRIZE * arrived - ACTION_COST * push**2
        self.position, self.speed = position, speed
        self.steps += 1
        done = arrived | (self.steps >= self.horizon)
        if done.any():
            self._begin(done)
        return self.observe(), rewards, done
