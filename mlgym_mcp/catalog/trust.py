"""Sources that nobody published a checksum of: what came first is written down, and enforced from then on.

A record is a small JSON file in ``trust/``. A person who has found out why a source changed, and that the new
content is right, removes it; the next fetch then makes another.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlgym_mcp.catalog.errors import SourceError
from mlgym_mcp.catalog.lock import Source
from mlgym_sandbox.home import home


@dataclass(frozen=True, slots=True)
class Trusted:
    """What a source's payload was when it was first used.

    Attributes:
        source: its name.
        origin: where it came from.
        bytes: its size.
        sha256: its checksum.
        first_used: the day, in UTC.
    """

    source: str
    origin: str
    bytes: int
    sha256: str
    first_used: str

    @property
    def sentence(self) -> str:
        """What a user should be told."""
        return f"{self.source} is trusted on first use: sha256 {self.sha256}; compare it with a friend's"


def record_path(source: Source) -> Path:
    """Return where the record of a source of first use is, or will be: one for each set of origins."""
    return home("trust") / f"{source.name}-{source.pin.removeprefix('first-use:')[:16]}.json"


def trusted(source: Source) -> Trusted | None:
    """Return what is recorded of a source of first use; ``None`` before that, and for sources with a checksum.

    Raises:
        SourceError: the record cannot be read.
    """
    if source.trust is None:
        return None
    path = record_path(source)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return Trusted(str(raw["source"]), str(raw["origin"]), int(raw["bytes"]), str(raw["sha256"]), raw["first_used"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            "checksum", f"{path} does not say what was trusted ({error}); remove it to trust {source.name} anew"
        ) from error


def trust(source: Source, origin: str, size: int, sha256: str) -> Trusted:
    """Record durably what a source of first use is, and return it.

    Raises:
        OSError: no disk.
    """
    made = Trusted(source.name, origin, size, sha256, datetime.now(UTC).date().isoformat())
    path = record_path(source)
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(made), indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return made
