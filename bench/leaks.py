"""What exists on this machine because of one home's sessions: processes, containers, mounts, groups, files.

Everything is told by the home's own name, which nothing else on the machine carries, or by the names of its
sandboxes; so other servers may run beside it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import docker
from docker.errors import DockerException
from procfs import children, look, open_files, pids

KEPT = ("episodes",)
"""What of a home may grow."""
_CGROUPS = Path("/sys/fs/cgroup")


def processes(place: Path, but: Collection[int]) -> list[str]:
    """Return the processes that live in the home or see any of it mounted."""
    found = []
    for pid in pids():
        if pid in but:
            continue
        try:
            state = look(pid).state
            if state == "Z":
                continue  # whoever has to hear of its end is not the server: those are among its children
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            seen = Path(f"/proc/{pid}/mountinfo").read_text(errors="replace")
        except OSError:
            continue
        if str(place) in command or str(place) in seen:
            found.append(f"{pid} {command[:100]}")
    return found


def zombies_and_helpers(server: int) -> list[str]:
    """Return the server's children, those included of whose end it does not want to know."""
    found = []
    for pid in children(server):
        try:
            state = look(pid).state
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found.append(f"{pid} {state} {command[:100]}")
    return found


def containers(place: Path) -> list[str]:
    """Return the containers and volumes of the home's sandboxes; none where no engine answers."""
    try:
        mine = {"label": f"mlgym.home={(place / 'run' / 'installation').read_text().strip()}"}
        client = docker.from_env(timeout=30)
    except (OSError, DockerException):
        return []
    try:
        found = [f"container {each['Names'][0]}" for each in client.api.containers(all=True, filters=mine)]
        return found + [f"volume {each['Name']}" for each in client.api.volumes(filters=mine)["Volumes"] or ()]
    except DockerException:
        return []
    finally:
        client.close()


def mounts(place: Path) -> list[str]:
    """Return what is mounted in the home, as this process sees it."""
    text = Path("/proc/self/mountinfo").read_text(errors="replace")
    return [line for line in text.splitlines() if str(place) in line]


def loop_devices(place: Path) -> list[str]:
    """Return the loop devices whose file is or was in the home."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            name = backing.read_text().strip()
        except OSError:
            continue
        if str(place) in name:
            found.append(f"{backing.parts[3]} {name}")
    return found


def cgroups(names: Collection[str]) -> list[str]:
    """Return the control groups of sandboxes, by the beginnings of their names."""
    beginnings = tuple(names)
    if not beginnings:
        return []
    return [folder for folder, _, _ in os.walk(_CGROUPS) if os.path.basename(folder).startswith(beginnings)]  # noqa: PTH119


def descriptors(server: int) -> Counter[str]:
    """Return how many descriptors of each kind the server holds, but for the event loop's own."""
    kinds: Counter[str] = Counter()
    for target in open_files(server).values():
        kind, _, _ = target.partition(":")
        kinds[kind if kind in ("socket", "pipe") else target.removesuffix(" (deleted)")] += 1
    return kinds


def tree(place: Path) -> dict[str, int]:
    """Return the home's files and folders with their bytes; a folder's are 0."""
    return dict(_walk(place))


def _walk(place: Path) -> Iterator[tuple[str, int]]:
    for folder, names, files in os.walk(place):
        inside = Path(folder).relative_to(place)
        if inside.parts[:1] and inside.parts[0] in KEPT:
            names.clear()
            continue
        yield str(inside), 0
        for name in files:
            try:
                yield str(inside / name), (place / inside / name).lstat().st_size
            except OSError:
                continue
