"""The arguments of a recorded tool call, as they were sent: long ones lie beside the journal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class RecordError(ValueError):
    """Something of an episode was not kept, or is damaged; the message says what."""


def sent_arguments(folder: Path, kept: Mapping[str, Any], seq: int) -> dict[str, Any]:
    """Return the arguments of a call.

    Args:
        folder: the episode.
        kept: what the journal keeps of them.
        seq: the call's number in the journal, for messages.

    Raises:
        RecordError: some of them were not kept, or are not what the journal says.
    """
    if set(kept) == {"$all"}:
        whole = _value(folder, kept["$all"], seq)
        if not isinstance(whole, dict):
            raise RecordError(f"{folder.name}: the arguments of call {seq} were not kept")
        return whole
    return {name: _value(folder, value, seq) for name, value in kept.items()}


def _value(folder: Path, kept: Any, seq: int) -> Any:
    if not isinstance(kept, dict):
        return kept
    if set(kept) == {"$json"} and isinstance(kept["$json"], str):
        return json.loads(kept["$json"])
    digest = kept.get("$blob")
    if not isinstance(digest, str) or "chars" not in kept:
        return kept
    path = folder / "blobs" / digest
    if kept.get("dropped") or not digest.isalnum() or not path.is_file():
        raise RecordError(f"{folder.name}: the arguments of call {seq} were too large to be kept")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise RecordError(f"{path} is not what the journal says: its digest differs")
    text = data.decode("utf-8", "surrogatepass")
    return json.loads(text) if kept.get("kind") == "json" else text
