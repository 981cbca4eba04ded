"""What a bubblewrap sandbox sees: the arguments that lay out its file system and take its rights away."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlgym_sandbox import seccomp
from mlgym_sandbox.backends import bubblewrap_gpus
from mlgym_sandbox.environment import INSIDE, Environment
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.host_system import TOP, shows, usr_parts
from mlgym_sandbox.identities import AGENT, Identities
from mlgym_sandbox.inside import STATE_DIR
from mlgym_sandbox.spec import DATA, WORKSPACE, SandboxSpec, inodes

RUNNER_PATH = "/opt/mlgym/runner.pyc"
SEARCH_PATH = f"{INSIDE}/bin:/usr/local/bin:/usr/bin:/bin"

# Programs and libraries, but not all of /usr: packages of data sets put their hidden labels into /usr/share.
_ETC = ("alternatives", "ld.so.cache")
_FILES: Mapping[str, str] = {
    "passwd": "root:x:0:0:runner:/:/usr/sbin/nologin\n"
    f"agent:x:{AGENT}:{AGENT}::{WORKSPACE}:/bin/bash\n"
    "nobody:x:65534:65534::/:/usr/sbin/nologin\n",
    "group": f"root:x:0:\nagent:x:{AGENT}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_SETPCAP")
"""What the runner starts with; it drops the last, and all others for good, before its own first line."""


@dataclass(slots=True)
class View:
    """The arguments, and what the names in them stand for: paths on this machine and small files."""

    arguments: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    memory_folders: dict[str, str] = field(default_factory=dict)
    memory_files: dict[str, bytes] = field(default_factory=dict)

    def show(self, source: str, target: str, *, write: bool = False) -> None:
        """Show a file or folder of this machine."""
        name = f"source{len(self.sources)}"
        self.sources[name] = source
        self.arguments += ["--bind" if write else "--ro-bind", f"@{name}@", target]

    def device(self, path: str) -> None:
        """Show a device node as what it is."""
        name = f"source{len(self.sources)}"
        self.sources[name] = path
        self.arguments += ["--dev-bind", f"@{name}@", path]

    def folder(self, path: str, mode: str = "0755") -> None:
        """Make an empty folder."""
        self.arguments += ["--perms", mode, "--dir", path]

    def file(self, path: str, text: str) -> None:
        """Make a small file."""
        name = f"file{len(self.memory_files)}"
        self.memory_files[name] = text.encode()
        self.arguments += ["--perms", "0444", "--file", f"@{name}@", path]


def lay_out(
    spec: SandboxSpec,
    environment: Environment,
    identities: Identities,
    *,
    runner: Path,
    config: Mapping[str, str],
    state: Path,
    workspace: Path | None,
    version: tuple[int, ...],
    devices: Sequence[str] = (),
) -> View:
    """Return everything bubblewrap is told.

    Args:
        spec: what was asked for.
        environment: the Python environment to show.
        identities: the users.
        runner: the compiled runner on this machine.
        config: its environment entry.
        state: the folder for jobs' output.
        workspace: a plain folder to be the workspace; ``None`` when the launcher mounts an image as that.
        version: bubblewrap's.
        devices: device nodes of this machine to show: those of the sandbox's GPUs.

    Raises:
        SandboxError: a mount that cannot be shown.
    """
    view = View()
    view.arguments += _namespaces(identities, version)
    _system(view)
    made = {"/usr", "/usr/local", "/usr/share", "/etc", "/dev"}
    for path in ("/opt", "/opt/mlgym", "/var", "/home"):
        _ancestors(view, f"{path}/x", made)
    view.arguments += ["--symlink", "/tmp", "/var/tmp"]  # noqa: S108 - inside
    view.arguments += ["--proc", "/proc", "--dev", "/dev"]
    for device in devices:
        _ancestors(view, device, made)
        view.device(device)
    if devices and (driver := bubblewrap_gpus.driver()) is not None:
        view.show(driver, driver)
    shared = min(spec.limits.memory_mb // 4, 1024)
    _memory_folder(view, identities, "shm", "/dev/shm", max(1, shared))  # noqa: S108 - inside
    # What lies in memory counts as memory and outlives its process: it must never be able to fill the limit.
    temporary = min(spec.limits.tmp_mb, max(1, spec.limits.memory_mb // 4))
    _memory_folder(view, identities, "tmp", "/tmp", temporary)  # noqa: S108 - inside
    base = str(environment.base_prefix)
    if not shows(base) and base not in ("/usr", "/usr/local"):
        _ancestors(view, base, made)
        view.show(base, base)
    view.show(str(environment.path), INSIDE)
    view.show(str(runner), RUNNER_PATH)
    # The runner's own: nobody else inside may even pass through.
    view.folder("/run", "0700")
    view.sources["state"] = str(state)
    view.arguments += ["--bind", "@state@", STATE_DIR]
    if workspace is not None:
        view.sources["workspace"] = str(workspace)
    view.arguments += ["--bind", "@workspace@", WORKSPACE]
    for mount in spec.mounts:
        _check_readable(mount.source, identities)
        _ancestors(view, mount.target, made)
        view.show(str(mount.source.absolute()), mount.target)
    if not any(mount.target == DATA for mount in spec.mounts):
        view.folder(DATA)
    view.arguments += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]
    for key, value in {"PATH": SEARCH_PATH, **config}.items():
        view.arguments += ["--setenv", key, value]
    _filter(view)
    view.arguments += ["--info-fd", "@info@"]
    return view


def command_environment(spec: SandboxSpec) -> dict[str, str]:
    """Return the environment of every command."""
    threads = str(max(1, min(math.ceil(spec.limits.cpus), os.cpu_count() or 1)))
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "LOKY_MAX_CPU_COUNT")
    return {
        "PATH": SEARCH_PATH,
        "HOME": WORKSPACE,
        "USER": "agent",
        "LOGNAME": "agent",
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",  # noqa: S108 - inside
        "DATA_DIR": DATA,
        "VIRTUAL_ENV": INSIDE,
        **dict.fromkeys(pools, threads),
        **bubblewrap_gpus.environment(spec.gpus),
        **spec.env,
    }


def _namespaces(identities: Identities, version: tuple[int, ...]) -> Iterator[str]:
    for kind in ("pid", "net", "ipc", "uts", "cgroup-try"):
        yield f"--unshare-{kind}"
    yield from ("--as-pid-1", "--new-session", "--clearenv", "--hostname", "sandbox", "--cap-drop", "ALL")
    if identities.split:
        # The launcher is in the user namespace already.
        for capability in _CAPABILITIES:
            yield from ("--cap-add", capability)
    else:
        yield from ("--unshare-user", "--uid", str(AGENT), "--gid", str(AGENT))
        if version >= (0, 8):
            yield "--disable-userns"


def _system(view: View) -> None:
    for path in ("/usr", "/usr/local", "/usr/share", "/etc"):
        view.folder(path)
    for path in usr_parts():
        _system_part(view, path)
    for part in TOP:
        _system_part(view, f"/{part}")
    for part in _ETC:
        _system_part(view, f"/etc/{part}")
    for name, text in _FILES.items():
        view.file(f"/etc/{name}", text)


def _system_part(view: View, path: str) -> None:
    if Path(path).is_symlink():
        view.arguments += ["--symlink", os.readlink(path), path]  # noqa: PTH115 - it must stay relative
    elif Path(path).exists():
        view.arguments += ["--ro-bind", path, path]


def _memory_folder(view: View, identities: Identities, name: str, path: str, size_mb: int) -> None:
    """Show a file system in memory, bounded in bytes and, where we may mount it ourselves, in files."""
    if identities.users == "single":
        view.arguments += ["--perms", "1777", "--size", str(size_mb << 20), "--tmpfs", path]
        return
    view.memory_folders[name] = f"size={size_mb}m,nr_inodes={inodes(size_mb)},mode=1777"
    view.arguments += ["--bind", f"@{name}@", path]


def _ancestors(view: View, path: str, made: set[str]) -> None:
    """Make the folders above a mount: bubblewrap would make them for its own user only."""
    for parent in reversed(Path(path).parents[:-1]):
        name = str(parent)
        if name not in made and not shows(name):
            made.add(name)
            view.folder(name)


def _check_readable(source: Path, identities: Identities) -> None:
    try:
        mode = source.stat().st_mode
    except OSError as error:
        raise SandboxError(f"the mount {source} cannot be shown in a sandbox: {error.strerror}") from error
    if identities.users == "mapped" and not mode & 0o004:
        raise SandboxError(
            f"the mount {source} is readable for its owner only, and the sandbox's commands run as another user; "
            f"make it readable: chmod -R a+rX {source}"
        )


def trial_arguments(identities: Identities, version: tuple[int, ...], *, with_workspace: bool) -> View:
    """Return what a sandbox needs that only says a word: all kinds of things, but nothing of ours."""
    view = View()
    view.arguments += _namespaces(identities, version)
    _system(view)
    view.arguments += ["--proc", "/proc", "--dev", "/dev", "--size", "65536", "--tmpfs", "/tmp"]  # noqa: S108
    if with_workspace:
        view.arguments += ["--bind", "@workspace@", WORKSPACE]
    view.arguments += ["--remount-ro", "/dev", "--remount-ro", "/", "--setenv", "PATH", "/usr/bin:/bin"]
    _filter(view)
    view.arguments += ["--info-fd", "@info@"]
    return view


def _filter(view: View) -> None:
    if (filter_program := seccomp.program()) is not None:
        view.memory_files["seccomp"] = filter_program
        view.arguments += ["--seccomp", "@seccomp@"]
