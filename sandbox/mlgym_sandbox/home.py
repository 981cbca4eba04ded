"""Where this installation keeps its data: ``$MLGYM_HOME``, else the user's data folder."""

from __future__ import annotations

import os
from pathlib import Path


def home(*parts: str) -> Path:
    """Return the data folder, or a folder below it, made with mode 0700 if missing.

    Raises:
        OSError: it cannot be made; the message names the path.
    """
    chosen = os.environ.get("MLGYM_HOME")
    if chosen:
        root = Path(chosen).expanduser().absolute()
    else:
        base = os.environ.get("XDG_DATA_HOME")
        root = (Path(base) if base else Path.home() / ".local" / "share") / "mlgym-mcp"
    path = root.joinpath(*parts)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
