"""What dead servers left running: found by label, and removed."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Collection
from functools import cache
from pathlib import Path

import anyio

from mlgym_mcp.session.markers import Markers
from mlgym_sandbox.backends.base import Backend, Found
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.home import home
from mlgym_sandbox.processes import lives, process_started

logger = logging.getLogger(__name__)

_LOOK_S = 30.0
_RETRY_S = (0.5, 60.0)


def installation() -> str:
    """Return what names this data folder among all that use one engine: random, made on first use."""
    return _installation(home("run"))


@cache
def _installation(folder: Path) -> str:
    path = folder / "installation"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        part = folder / f"installation.{secrets.token_hex(4)}"
        part.write_text(secrets.token_hex(8))
        try:
            path.hardlink_to(part)  # the first of two servers wins
        except FileExistsError:
            pass
        part.unlink()
        return path.read_text().strip()


def owner_labels() -> dict[str, str]:
    """Return the labels that every sandbox of this server carries, pooled ones and players included.

    By them the next server knows which ones are its to remove: those of this installation whose server is dead
    and which no session claims by its marker (``remove_orphans``).
    """
    pid = os.getpid()
    return {"mlgym": "1", "mlgym.home": installation(), "mlgym.server": f"{pid}:{process_started(pid)}"}


async def remove_orphans(backend: Backend, markers: Markers, keep: Collection[str] = ()) -> list[str]:
    """Remove the sandboxes of dead servers of this installation that no live session claims; returns their names.

    A player is never claimed: what it played for died with its server. Another installation's sandboxes on the
    same engine, and those of a living server, are not touched.

    Args:
        backend: where to look; an engine that does not answer is left alone.
        markers: the live sessions of all servers, as they stand after the sandboxes were listed.
        keep: names of sandboxes that are claimed though their marker does not say so yet.
    """
    removed = []
    try:
        with anyio.fail_after(_LOOK_S):
            found = await backend.find({"mlgym": "1", "mlgym.home": installation()})
        known = list(markers.every())
        names = {marker.sandbox for marker in known} | set(keep)
        sessions = {marker.session for marker in known}
        for each in found:
            if not _orphaned(each, names, sessions):
                continue
            with anyio.fail_after(_LOOK_S):
                await backend.remove(each.name)
            removed.append(each.name)
            logger.info("removed the sandbox %s: its server is dead and no session claims it", each.name)
    except (SandboxError, OSError, TimeoutError) as exc:
        logger.warning("the %s backend could not be searched for leftovers: %s", backend.name, exc)
    return removed


async def remove_for_good(backend: Backend, session_id: str, name: str | None) -> None:
    """Remove all sandboxes of an ended session; returns when they are gone, however long their engine is away.

    Args:
        backend: where they are, if they are.
        session_id: the session's.
        name: its own sandbox's, if it had one: something of it may be left though it is listed no more.
    """
    pause_s, last_s = _RETRY_S
    while True:
        try:
            with anyio.fail_after(_LOOK_S):
                names = {found.name for found in await backend.find({"mlgym.session": session_id})}
                for each in names if name is None else names | {name}:
                    await backend.remove(each)
            return
        except (SandboxError, OSError, TimeoutError) as exc:
            logger.debug("what is left of a session cannot be removed yet: %s", exc)
        await anyio.sleep(pause_s)
        pause_s = min(2 * pause_s, last_s)


def _orphaned(found: Found, names: Collection[str | None], sessions: Collection[str]) -> bool:
    if _server_lives(found.labels.get("mlgym.server", "")):
        return False
    if found.labels.get("mlgym.role") == "player":
        return True
    return found.name not in names and found.labels.get("mlgym.session") not in sessions


def _server_lives(label: str) -> bool:
    pid, _, started = label.partition(":")
    return pid.isdigit() and started.isdigit() and lives(int(pid), int(started))
