"""What the processes of a task's trusted code have in common: they end with the server, have limits, load one function.

Standard library only: these processes run by the light environment's Python.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def boot(module: str) -> str:
    """Return the program of such a process: it runs ``module``'s ``main`` with two descriptors.

    It imports our package alone, from the folder in ``argv[1]``: the server's other packages must not shadow the
    environment's.
    """
    return f"""
import importlib.util, os, sys
folder, channel, alive = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
spec = importlib.util.spec_from_file_location(
    "mlgym_mcp", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder])
package = sys.modules["mlgym_mcp"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from {module} import main
main(channel, alive)
"""


def end_with_server(alive: int) -> None:
    """Have the kernel end this process when the server does: the last writer of the pipe ``alive`` is gone."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(alive, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(alive, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    with contextlib.suppress(BlockingIOError):
        if not os.read(alive, 1):
            os._exit(3)


def limit(wanted: Mapping[int, int]) -> None:
    """Set resource limits (by ``resource.RLIMIT_*``), each no higher than it may be."""
    for kind, value in {resource.RLIMIT_CORE: 0, **wanted}.items():
        _, hard = resource.getrlimit(kind)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (allowed, allowed))


def load_function(folder: Path, entrypoint: str) -> Callable[[Any], Any]:
    """Return the function of ``module:function`` in a task's folder, whose other modules it may import.

    Raises:
        FileNotFoundError: there is no such module.
        AttributeError: it has no such function.
    """
    name, _, function = entrypoint.partition(":")
    path = folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"{entrypoint!r} was not found: there is no {name}.py in {folder}")
    sys.path.append(str(folder))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    found: Callable[[Any], Any] = getattr(module, function)
    return found
