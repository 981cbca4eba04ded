"""Role ``policy``: actions for observations, as raw arrays.

Hello has ``obs`` and ``act`` (``{"dtype", "shape"}`` of one slot) and ``n`` slots. ``load {"index"}`` calls
``make_policy(folder, index)``; ``reset {"n"}`` calls ``policy.reset(n)``; ``act`` with a payload of n observations
and n done bytes calls ``policy.act(obs, done)`` and answers n raw actions.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from mlgym_sandbox.inside.player.answers import Answer, AnswerError, attribute
from mlgym_sandbox.inside.player.raw import as_raw


class Policy:
    """Raw arrays in, raw arrays out."""

    def __init__(self, module: Any, facts: dict[str, Any]) -> None:
        self.np: Any = importlib.import_module("numpy")
        self.make = attribute(module, "make_policy", facts["entry"])
        self.policy: Any = None
        self.obs = self.np.dtype("<" + facts["obs"]["dtype"]), tuple(facts["obs"].get("shape", ()))
        self.action = facts["act"]["dtype"], tuple(facts["act"].get("shape", ()))
        self.slots = facts["n"]

    def load(self, args: dict[str, Any], _payload: bytes, _size: int) -> Answer:
        """A policy: one of several checkpoints, by index."""
        self.policy = self.make(os.getcwd(), args["index"])
        return {}, b""

    def reset(self, args: dict[str, Any], _payload: bytes, _size: int) -> Answer:
        """New episodes in all slots; a policy without memory needs no ``reset``."""
        self.slots = args["n"]
        if callable(getattr(self.policy, "reset", None)):
            self.policy.reset(self.slots)
        return {}, b""

    def act(self, _args: dict[str, Any], payload: bytes, size: int) -> Answer:
        """One action per slot."""
        np, (dtype, shape) = self.np, self.obs
        split = len(payload) - self.slots
        obs = np.frombuffer(payload[:split], dtype=dtype).reshape((self.slots, *shape))
        done = np.frombuffer(payload[split:], dtype=np.uint8).astype(bool)
        actions = attribute(self.policy, "act", "the policy")(obs, done)
        dtype, shape = self.action
        data = as_raw("act()", actions, dtype, (self.slots, *shape))
        if len(data) != size:
            raise AnswerError("protocol", "act() gave %d bytes, expected %d" % (len(data), size))
        return {}, data
