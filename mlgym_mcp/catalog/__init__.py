"""Tasks: find them, read them, prepare their data. Names are loaded when first used.

Generators and graders run in processes without our dependencies and import modules of this package, so
importing the package itself must load nothing but the standard library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlgym_mcp.catalog.catalog import Catalog, Solution, Task
    from mlgym_mcp.catalog.errors import DataError, SourceError, TaskError
    from mlgym_mcp.catalog.prepared import Manifest, Prepared, find_prepared, state
    from mlgym_mcp.catalog.preparing import prepare
    from mlgym_mcp.catalog.spec import Preset, TaskSpec

__all__ = [
    "Catalog",
    "DataError",
    "Manifest",
    "Prepared",
    "Preset",
    "Solution",
    "SourceError",
    "Task",
    "TaskError",
    "TaskSpec",
    "find_prepared",
    "prepare",
    "state",
]

_HOMES = {
    "Catalog": "catalog",
    "DataError": "errors",
    "Manifest": "prepared",
    "Prepared": "prepared",
    "Preset": "spec",
    "Solution": "catalog",
    "SourceError": "errors",
    "Task": "catalog",
    "TaskError": "errors",
    "TaskSpec": "spec",
    "find_prepared": "prepared",
    "prepare": "preparing",
    "state": "prepared",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
