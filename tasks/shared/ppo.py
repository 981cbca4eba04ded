"""Proximal policy optimisation (PPO): environments in NumPy, a small network in PyTorch, one thread.

``train`` collects ``length`` steps from ``envs`` environments side by side, improves the network on them for some
epochs, and so on until all steps are used up. ``save`` writes the weights as plain arrays for ``policy.py``.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Settings:
    """What can be tuned."""

    envs: int = 64
    length: int = 32  # steps of each environment between two improvements
    hidden: int = 64  # units of each of the two layers
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 5e-4
    decay: bool = False  # lower the learning rate to 5 % in the course of training
    discount: float = 0.99
    trace: float = 0.95  # lambda of the generalised advantage estimate
    clip: float = 0.2
    entropy: float = 0.01  # weight of the bonus for exploring
    reward_scale: float = 1.0
    log_noise: float = -0.5  # of continuous actions, at first


class Network(nn.Module):
    """Two layers with tanh; from them one linear head for the actions and one for the value.

    Args:
        inputs: how many numbers go in.
        hidden: units of a layer.
        choices: how many actions there are; 0 for one continuous action, of which the head gives the mean.
        log_noise: logarithm of the continuous action's standard deviation, at first.
    """

    def __init__(self, inputs, hidden, choices, log_noise):
        super().__init__()
        self.choices = choices
        self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
        self.action, self.value = nn.Linear(hidden, choices or 1), nn.Linear(hidden, 1)
        self.log_noise = nn.Parameter(torch.tensor(float(log_noise)))
        nn.init.orthogonal_(self.action.weight, 0.01)
        nn.init.zeros_(self.action.bias)

    def forward(self, x):
        """(n, inputs) to the action head's output (n, choices or 1) and values (n,)."""
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.action(x), self.value(x)[:, 0]

    def judge(self, head, actions):
        """Log probabilities (n,) of actions (n,), and the mean entropy, given the action head's output."""
        if self.choices:
            log_p = torch.log_softmax(head, 1)
            return log_p.gather(1, actions.long()[:, None])[:, 0], -(log_p.exp() * log_p).sum(1).mean()
        distance = (actions - head[:, 0]) / self.log_noise.exp()
        normal = 0.5 * np.log(2 * np.pi)
        return -0.5 * distance**2 - self.log_noise - normal, self.log_noise + normal + 0.5

    def draw(self, head, rng):
        """Random actions (n,) as the action head's output says."""
        head = head.numpy()
        if self.choices:
            return (head + rng.gumbel(size=head.shape)).argmax(1)
        return head[:, 0] + np.exp(self.log_noise.item()) * rng.normal(size=len(head))


def train(env, inputs, choices, settings, steps, seed, bonus=None):
    """Train a network for ``steps`` steps of all environments together; returns it.

    Args:
        env: ``settings.envs`` environments; ``step`` begins a new episode where one has ended.
        inputs: function from observations to what the network sees, float32 (n, k).
        choices: how many actions there are, or 0 for a continuous one.
        settings: see Settings.
        steps: rounded down to whole batches of ``envs * length``.
        seed: of everything random here.
        bonus: function from inputs before and after a step to extra rewards (n,); not given at the end of episodes.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    n, length = settings.envs, settings.length
    seen = inputs(env.reset())
    width = seen.shape[1]
    network = Network(width, settings.hidden, choices, settings.log_noise)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, eps=1e-5, fused=True)
    xs = np.zeros((length, n, width), np.float32)
    actions, rewards, ends, values, log_ps = (np.zeros((length, n), np.float32) for _ in range(5))
    running, finished = np.zeros(n), []
    batches = steps // (n * length)
    for batch in range(batches):
        if settings.decay:
            optimizer.param_groups[0]["lr"] = settings.learning_rate * max(0.05, 1 - batch / batches)
        for t in range(length):
            with torch.no_grad():
                head, value = network(torch.from_numpy(seen))
                actions[t] = network.draw(head, rng)
                log_ps[t] = network.judge(head, torch.from_numpy(actions[t]))[0].numpy()
            xs[t], values[t] = seen, value.numpy()
            observations, gained, done = env.step(actions[t])
            seen = inputs(observations)
            running += gained
            finished += running[done].tolist()
            running[done] = 0
            extra = 0.0 if bonus is None else bonus(xs[t], seen) * ~done
            rewards[t], ends[t] = (gained + extra) * settings.reward_scale, done
        with torch.no_grad():
            last = network(torch.from_numpy(seen))[1].numpy()
        advantages = estimate(rewards, ends, values, last, settings)
        whole = [a.reshape(n * length, -1).squeeze(1) for a in (actions, log_ps, advantages, advantages + values)]
        data = [torch.from_numpy(a) for a in (xs.reshape(n * length, width), *whole)]
        for _ in range(settings.epochs):
            for part in torch.from_numpy(rng.permutation(n * length)).chunk(settings.minibatches):
                improve(network, optimizer, settings, *(a[part] for a in data))
        if (batch + 1) % max(1, batches // 10) == 0:
            mean = np.mean(finished[-200:]) if finished else np.nan
            print(f"{(batch + 1) * n * length} steps, mean return {mean:.2f}", flush=True)
    return network


def estimate(rewards, ends, values, last, settings):
    """Generalised advantages (length, n), from the last step back to the first."""
    advantages = np.zeros_like(rewards)
    ahead, following = np.zeros_like(last), last
    for t in reversed(range(len(rewards))):
        goes_on = 1 - ends[t]
        error = rewards[t] + settings.discount * following * goes_on - values[t]
        ahead = error + settings.discount * settings.trace * goes_on * ahead
        advantages[t], following = ahead, values[t]
    return advantages


def improve(network, optimizer, settings, x, action, old_log_p, advantage, target):
    """One step of the optimizer on a minibatch."""
    head, value = network(x)
    log_p, entropy = network.judge(head, action)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    ratio = (log_p - old_log_p).exp()
    gain = torch.min(ratio * advantage, ratio.clamp(1 - settings.clip, 1 + settings.clip) * advantage).mean()
    loss = 0.5 * (value - target).square().mean() - gain - settings.entropy * entropy
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 0.5)
    optimizer.step()


def save(network, path):
    """Write the weights to an .npz file; matrices are (inputs, outputs)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    np.savez(path, **{name: value.T if value.ndim == 2 else value for name, value in state.items()})
