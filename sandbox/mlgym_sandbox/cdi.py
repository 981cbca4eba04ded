"""Device names by the Container Device Interface: what an engine can hand in without a runtime of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path


def cdi_devices(folders: Sequence[Path] = (Path("/etc/cdi"), Path("/var/run/cdi"))) -> frozenset[str]:
    """Return the names that CDI specifications of this machine define, as ``nvidia.com/gpu=GPU-...``."""
    names: set[str] = set()
    for folder in folders:
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            if path.suffix in (".yaml", ".yml", ".json"):
                try:
                    names |= _read_cdi(path.read_text(encoding="utf-8", errors="replace"))
                except OSError:
                    continue
    return frozenset(names)


def _read_cdi(text: str) -> set[str]:
    """The names in one specification.

    JSON or YAML as its generators write it: the kind and the list of devices at the top, each with a name. Names
    deeper down belong to something else.
    """
    if text.lstrip().startswith("{"):
        try:
            said = json.loads(text)
            return {f"{said['kind']}={device['name']}" for device in said["devices"]}
        except (ValueError, KeyError, TypeError):
            return set()
    kind, section, names = "", "", set()
    item = re.compile(r"(\s*)- ")
    own = item
    for line in text.splitlines():
        if top := re.match(r"([A-Za-z]+):\s*(\S*)", line):
            section, own = top[1], item
            kind = top[2].strip("\"'") if section == "kind" else kind
        elif section == "devices":
            if own is item and (first := item.match(line)):
                own = re.compile(rf"{first[1]}(?:- |  )name:\s*(\S+)\s*$")
            if own is not item and (name := own.match(line)):
                names.add(name[1].strip("\"'"))
    return {f"{kind}={name}" for name in names} if kind else set()
