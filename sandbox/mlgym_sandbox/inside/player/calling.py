"""Role ``call``: any function of the submission, JSON in and out.

``call {"function", "args"}`` answers ``{"value": function(*args)}``.
"""

from __future__ import annotations

from typing import Any

from mlgym_sandbox.inside.player.answers import Answer, attribute


class Call:
    """Calls what the referee names."""

    def __init__(self, module: Any, facts: dict[str, Any]) -> None:
        self.module = module
        self.entry = facts["entry"]

    def call(self, args: dict[str, Any], _payload: bytes, _size: int) -> Answer:
        """One call."""
        function = attribute(self.module, args["function"], self.entry)
        return {"value": function(*args["args"])}, b""
