"""Reference: a network on a description of the ball relative to the paddle, played without chance."""

from pathlib import Path

import numpy as np

SIZE = 10
COLUMNS = np.arange(SIZE)
OFFSETS = np.arange(-SIZE + 1, SIZE)
PADDLE, BALL, TRAIL, BRICK = range(4)


def place(channel):
    """Row and column (n,) of the one cell that is set in each grid (n, 10, 10)."""
    cell = channel.reshape(len(channel), -1).argmax(1)
    return cell // SIZE, cell % SIZE


def inputs(observations):
    """Where the ball is, from where it came, how far the paddle is off, and the bricks: float32 (n, 93)."""
    _, paddle = place(observations[..., PADDLE])
    row, column = place(observations[..., BALL])
    old_row, old_column = place(observations[..., TRAIL])
    one_hot = [value[:, None] == COLUMNS for value in (row, column, paddle)]
    one_hot.append((column - paddle)[:, None] == OFFSETS)
    one_hot.append(np.stack([column > old_column, column < old_column, row > old_row, row < old_row], 1))
    bricks = observations[:, 0:4, :, BRICK].reshape(len(observations), -1)
    return np.concatenate([*one_hot, bricks], 1).astype(np.float32)


class Policy:
    """A trained network, in NumPy."""

    def __init__(self, path):
        with np.load(path, allow_pickle=False) as file:
            self.weights = {name: file[name] for name in file.files}

    def act(self, observations, done):
        """The action with the highest score, for each game."""
        w, x = self.weights, inputs(observations)
        for layer in ("first", "second"):
            x = np.tanh(x @ w[f"{layer}.weight"] + w[f"{layer}.bias"])
        return (x @ w["action.weight"] + w["action.bias"]).argmax(1)


def make_policy(folder, index):
    """Policy number ``index``."""
    return Policy(Path(folder) / "checkpoints" / f"{index}.npz")
