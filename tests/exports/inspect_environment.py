"""A Python environment with Inspect in it, made once and kept: it wants other versions of what we pin.

``python -m tests.exports.inspect_environment`` makes it, for whoever does not want to wait in a test.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

WANTED = "inspect-ai==0.3.285"


def inspect_python() -> Path:
    """Return its Python."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / f"mlgym-inspect-{sys.version_info.major}.{sys.version_info.minor}"
    python, done = folder / "bin" / "python", folder / ".installed"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() or done.read_text() != WANTED:
            done.unlink(missing_ok=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", WANTED]
            subprocess.run(command, check=True)
            done.write_text(WANTED)
    return python


if __name__ == "__main__":
    print(inspect_python())
