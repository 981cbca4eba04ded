"""Python environments of the frameworks, each made once and kept: no two of them, and none of them and us, go together.

``python -m tests.frameworks.environments NAME...`` makes them, for whoever does not want to wait in a test.
What is in one is said by ``clients/examples/requirements/NAME.txt``; at which versions the rest comes that these want,
by ``locks/NAME.txt``, so that a release of today does not fail the tests of yesterday. Without a lock it is the newest:
to renew one, remove it, make the environment, try it, and write down what is in it with ``--lock NAME...``.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UV = "uv==0.13.9"
"""Installs in seconds what takes pip a minute; it is itself installed by pip."""

REQUIREMENTS = Path(__file__).parents[2] / "clients" / "examples" / "requirements"
LOCKS = Path(__file__).with_name("locks")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_PIP_TO_UV = {"index-url": "UV_DEFAULT_INDEX", "find-links": "UV_FIND_LINKS", "cert": "SSL_CERT_FILE"}


def cache_folder() -> Path:
    """Return where environments are kept."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlgym-frameworks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def python_of(name: str) -> Path:
    """Return the Python of an environment, which is made if it is not there yet.

    Args:
        name: of the file with what is required, ``clients/examples/requirements/NAME.txt``.

    Raises:
        FileNotFoundError: there is no such file.
        CalledProcessError: it could not be installed.
    """
    requirements = REQUIREMENTS / f"{name}.txt"
    lock = LOCKS / f"{name}.txt"
    pins = requirements.read_text() + (lock.read_text() if lock.exists() else "")
    digest = hashlib.sha256(f"{VERSION} {UV} {pins}".encode()).hexdigest()[:12]
    with _made_once(cache_folder() / f"{name}-{digest}") as (folder, missing):
        python = folder / "bin" / "python"
        if missing:
            uv = str(_uv())
            subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
            command = [uv, "pip", "install", "--quiet", "--python", str(python), "--requirement", str(requirements)]
            command += ["--constraint", str(lock)] if lock.exists() else []
            subprocess.run(command, check=True, env=os.environ | indexes())
    return python


def write_lock(name: str) -> Path:
    """Write down what is in an environment, and return the file.

    A version's local part (``+cpu``) is left out: it is that of where the package came from.
    """
    command = [str(_uv()), "pip", "freeze", "--quiet", "--python", str(python_of(name))]
    frozen = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    lock = LOCKS / f"{name}.txt"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text("".join(f"{line.partition('+')[0]}\n" for line in frozen if "==" in line))
    return lock


def _uv() -> Path:
    with _made_once(cache_folder() / UV.replace("==", "-")) as (folder, missing):
        if missing:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "--no-deps", "--target", str(folder), UV], check=True)
    return folder / "bin" / "uv"


def indexes() -> dict[str, str]:
    """What uv must be told to look where pip looks: it does not read pip's configuration."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    told: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        option, _, value = line.partition("=")
        variable = _PIP_TO_UV.get(option.rpartition(".")[2])
        if variable is not None and variable not in os.environ:
            told[variable] = ",".join(shlex.split(value)[0].split())
    return told


@contextmanager
def _made_once(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield a folder and whether it is still to be made, to one process at a time; what was half made is not kept."""
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / ".made"
        missing = not done.exists()
        if missing:
            shutil.rmtree(folder, ignore_errors=True)
        yield folder, missing
        if missing:
            done.touch()


if __name__ == "__main__":
    make = write_lock if "--lock" in sys.argv else python_of
    for wanted in sys.argv[1:]:
        if wanted != "--lock":
            began = time.monotonic()
            print(f"{make(wanted)} ({time.monotonic() - began:.1f} s)", flush=True)
