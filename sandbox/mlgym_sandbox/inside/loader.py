"""Stands in front of the runner's modules where they are one program: imports them out of it instead of from files."""

from __future__ import annotations

import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Parts:
    """An importer of modules that are text, or bytecode as ``marshal`` writes it; an empty one is a package."""

    def __init__(self, parts: Mapping[str, str | bytes]) -> None:
        self.parts = parts

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        """Say whether a module is ours. Called by ``import``."""
        if name not in self.parts:
            return None
        is_package = any(other.startswith(name + ".") for other in self.parts)
        make: Any = type(sys.__spec__)
        return make(name, self, is_package=is_package)

    def create_module(self, spec: Any) -> None:
        """Have the module made as usual."""

    def exec_module(self, module: Any) -> None:
        """Run a module's code."""
        name = module.__spec__.name
        part = self.parts[name]
        if part:
            code = marshal.loads(part) if isinstance(part, bytes) else compile(part, "<%s>" % name, "exec")
            exec(code, module.__dict__)


def start(parts: Mapping[str, str | bytes], *names: str) -> None:
    """Import modules one after another and call ``main`` of the last."""
    finder: Any = Parts(parts)
    sys.meta_path.insert(0, finder)
    for name in names:
        __import__(name)
    sys.modules[names[-1]].main()
