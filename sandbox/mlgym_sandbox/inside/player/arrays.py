"""Role ``arrays``: methods of the submission's object, called with arrays and answering one array.

Hello has ``make``: the function of the entry that returns the object for the submission's folder. ``arrays
{"function", "inputs": [[dtype, shape], ...], "out": [dtype, shape]}`` with the inputs' raw bytes as payload answers
the raw bytes of the output.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from mlgym_sandbox.inside.player.answers import Answer, AnswerError, attribute
from mlgym_sandbox.inside.player.raw import as_raw


class Arrays:
    """Raw arrays in, one raw array out."""

    def __init__(self, module: Any, facts: dict[str, Any]) -> None:
        self.np: Any = importlib.import_module("numpy")
        self.made = attribute(module, facts["make"], facts["entry"])(os.getcwd())
        self.name = "what %s() returned" % facts["make"]

    def arrays(self, args: dict[str, Any], payload: bytes, size: int) -> Answer:
        """One call."""
        inputs, at = [], 0
        for code, shape in args["inputs"]:
            array = self.np.frombuffer(payload, "<" + code, count=int(self.np.prod(shape)), offset=at)
            inputs.append(array.reshape(shape))
            at += array.nbytes
        function = attribute(self.made, args["function"], self.name)
        data = as_raw("%s()" % args["function"], function(*inputs), *args["out"])
        if len(data) != size:
            raise AnswerError("protocol", "%s() gave %d bytes, expected %d" % (args["function"], len(data), size))
        return {}, data
