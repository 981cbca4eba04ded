"""The submission's arrays as raw bytes of exactly the dtype and shape that were asked for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from mlgym_sandbox.inside.player.answers import AnswerError


def as_raw(what: str, value: Any, dtype: str, shape: Sequence[int]) -> bytes:
    """C-ordered little-endian bytes of ``value``, or AnswerError: another shape, no numbers, or out of range."""
    np: Any = importlib.import_module("numpy")
    if hasattr(value, "detach"):  # a torch tensor
        value = value.detach().cpu().numpy()
    array, wanted = np.asarray(value), np.dtype("<" + dtype)
    if array.shape != tuple(shape):
        raise AnswerError("format", "%s returned shape %s, expected %s" % (what, array.shape, tuple(shape)))
    if array.dtype.kind not in "buif":
        raise AnswerError("format", "%s returned dtype %s, expected numbers" % (what, array.dtype))
    with np.errstate(all="ignore"):
        raw = np.ascontiguousarray(array.astype(wanted))
    if wanted.kind in "iu" and not np.array_equal(raw, array):
        raise AnswerError("range", "%s returned values that %s cannot hold" % (what, wanted.name))
    return bytes(raw.tobytes())
