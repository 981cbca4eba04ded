"""Start one bubblewrap sandbox, detached, and end: ``launch.main()``, with the order on standard input.

What bubblewrap cannot do itself is done here first: coming under the cgroup's limits, mounting the sized
workspace where only the sandbox sees it, and the two users of the sandbox. Sources are first gathered in a
private folder, so that they can be shown inside even if the sandbox's users could not reach them here.

Prints ``ok`` once bubblewrap runs, or ``error: ...``. Keep imports few: each one is paid for at every start.
"""

# ruff: noqa: PTH102, PTH104, PTH106, PTH112, PTH116, PTH118, PTH123, S606
# (pathlib would cost this program several milliseconds at every start)

from __future__ import annotations

import os
import resource
import sys

from mlgym_sandbox.launching import kernel, user_namespace
from mlgym_sandbox.launching.order import LISTENER, LOG, OOM_COUNTER, PIDS, STAGE, decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlgym_sandbox.launching.order import Order


def main() -> None:
    """Do what the order on standard input says."""
    with open(0, "rb", closefd=False) as stdin:
        order = decode(stdin.read())
    try:
        if order["action"] == "erase":
            _erase(order)
        else:
            _start(order)
    except OSError as error:
        _say(f"error: {error.strerror or error}" + (f" ({error.filename})" if error.filename else ""))
    except Exception as error:  # noqa: BLE001 - whatever it is, the server must hear of it
        _say(f"error: {error!r}")
    else:
        _say("ok")


def _say(text: str) -> None:
    os.write(1, text.encode(errors="replace") + b"\n")


def _start(order: Order) -> None:
    _move(order["listener"], LISTENER)
    os.set_inheritable(LISTENER, True)
    # Holds the number until the real one is opened, so that nothing else gets it.
    _move(os.open("/dev/null", os.O_RDONLY), OOM_COUNTER)
    failed, fail = os.pipe()
    info, tell = os.pipe()
    waiting, go = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(go)
            os.setsid()
            _detach_output(order["folder"])
            _become(order, tell, waiting)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            os.write(fail, f"{error.strerror or error}{where}".encode(errors="replace"))
        except BaseException as error:  # noqa: BLE001
            os.write(fail, repr(error).encode(errors="replace"))
        finally:
            os._exit(127)
    os.close(fail)
    os.close(tell)
    try:
        # Changing group takes the kernel as long as all the mounting: so the two go on at the same time.
        for entrance in order["entrances"]:
            _write(entrance, str(child).encode())
    except OSError:
        os.kill(child, 9)
        os.waitpid(child, 0)
        raise
    os.write(go, b"1")
    os.close(go)
    if problem := _read_all(failed):
        os.waitpid(child, 0)
        raise OSError(0, problem.decode(errors="replace"))
    first = _first_process(_read_all(info))
    if first is None:
        os.waitpid(child, 0)
        raise OSError(0, _log(order["folder"]) or "bubblewrap ended at once and did not say why")
    temporary = os.path.join(order["folder"], f".{PIDS}")
    with open(temporary, "w") as file:
        file.write(f"{child} {_started(child)} {first} {_started(first)}\n")
    os.rename(temporary, os.path.join(order["folder"], PIDS))


def _become(order: Order, tell: int, waiting: int) -> None:
    """Turn this process into bubblewrap, in the right namespaces and with the right descriptors."""
    os.umask(0o022)
    counter = order["oom_counter"]
    if counter is not None:
        descriptor = os.open(_scope_counter() if counter == "scope" else counter, os.O_RDONLY)
        _move(descriptor, OOM_COUNTER)
        os.set_inheritable(OOM_COUNTER, True)
    else:
        os.close(OOM_COUNTER)
    for number, limit in order["rlimits"].items():
        hard = resource.getrlimit(number)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(number, (limit, limit))
    words = _sources(order)
    for name, data in order["memory_files"].items():
        words[name] = str(_memory_file(name, data))
    os.set_inheritable(tell, True)
    words["info"] = str(tell)
    arguments = [words[word[1:-1]] if _is_reference(word) else word for word in order["arguments"]]
    given = _memory_file("arguments", b"".join(word.encode() + b"\0" for word in arguments))
    if os.read(waiting, 1) != b"1":
        raise OSError(0, "the launcher died")  # and this process is under no limits
    # The rest of the arguments go by descriptor: paths of the machine would show up in process listings.
    command = ["bwrap", "--args", str(given), "--", *order["command"]]
    os.execve(order["bwrap"], command, {"PATH": "/usr/bin:/bin"})


def _sources(order: Order) -> dict[str, str]:
    """Return a path for each source that bubblewrap will be able to open, and become who it runs as."""
    if order["users"] == "single":
        return dict(order["sources"])
    namespace = user_namespace.make(order["uids"], order["gids"], order["newuidmap"], order["newgidmap"])
    if order["users"] == "subuids":
        # Only in there have we the right to mount.
        kernel.join_user_namespace(namespace)
        kernel.private_mounts()
        staged = _stage(order, inside=True)
    else:
        kernel.private_mounts()
        staged = _stage(order, inside=False)
        kernel.join_user_namespace(namespace)
    os.close(namespace)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    return staged


def _stage(order: Order, *, inside: bool) -> dict[str, str]:
    """Gather all sources below one private folder."""
    held = {name: os.open(path, os.O_PATH | os.O_CLOEXEC) for name, path in order["sources"].items()}
    image = os.open(order["image"], os.O_RDWR | os.O_CLOEXEC) if order["image"] else None
    kernel.mount("mlgym", STAGE, "tmpfs", kernel.MS_NOSUID, "mode=0755,size=1m")
    staged = {name: f"{STAGE}/{name}" for name in held}
    for name, descriptor in held.items():
        if os.stat(descriptor).st_mode & 0o170000 == 0o040000:
            os.mkdir(staged[name])
        else:
            os.close(os.open(staged[name], os.O_CREAT | os.O_WRONLY))
        kernel.mount(f"/proc/self/fd/{descriptor}", staged[name], None, kernel.MS_BIND)
        os.close(descriptor)
    for name, options in order["memory_folders"].items():
        staged[name] = f"{STAGE}/{name}"
        os.mkdir(staged[name])
        kernel.mount("mlgym", staged[name], "tmpfs", kernel.MS_NOSUID, options)
    if image is not None:
        staged["workspace"] = f"{STAGE}/workspace"
        os.mkdir(staged["workspace"])
        kernel.mount_image(f"/proc/self/fd/{image}", staged["workspace"], STAGE)
        os.close(image)
        lost = f"{staged['workspace']}/lost+found"
        if os.path.isdir(lost):
            os.rmdir(lost)
    for name, owner in order["owners"].items():
        uid = owner if inside else _outside(order["uids"], owner)
        gid = owner if inside else _outside(order["gids"], owner)
        os.chown(staged[name], uid, gid)
    return staged


def _erase(order: Order) -> None:
    namespace = user_namespace.make(order["uids"], order["gids"], order["newuidmap"], order["newgidmap"])
    kernel.join_user_namespace(namespace)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    child = os.fork()
    if child == 0:
        try:
            # Not rm: a million names would not fit on a command line.
            command = ["find", order["folder"], "-xdev", "-mindepth", "1", "-delete"]
            os.execve("/usr/bin/find", command, {"PATH": "/usr/bin"})
        finally:
            os._exit(127)
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise OSError(0, f"find ended with {code}")


def _outside(lines: user_namespace.Map, number: int) -> int:
    for inside, outside, count in lines:
        if inside <= number < inside + count:
            return outside + number - inside
    raise OSError(0, f"{number} is not in the map")


def _is_reference(word: str) -> bool:
    return len(word) > 2 and word[0] == "@" and word[-1] == "@"


def _move(descriptor: int, number: int) -> None:
    if descriptor != number:
        os.dup2(descriptor, number, inheritable=False)
        os.close(descriptor)


def _memory_file(name: str, data: bytes) -> int:
    descriptor = os.memfd_create(name, 0)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _detach_output(folder: str) -> None:
    log = os.open(os.path.join(folder, LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(null)
    os.close(log)


def _log(folder: str) -> str:
    with open(os.path.join(folder, LOG), errors="replace") as file:
        return file.read(2000).strip()


def _read_all(descriptor: int) -> bytes:
    parts = []
    while data := os.read(descriptor, 4096):
        parts.append(data)
    os.close(descriptor)
    return b"".join(parts)


def _first_process(info: bytes) -> int | None:
    """The ``child-pid`` in what bubblewrap tells about itself."""
    _, found, rest = info.partition(b'"child-pid":')
    digits = rest.strip().split(b",")[0].split(b"}")[0].strip()
    return int(digits) if found and digits.isdigit() else None


def _started(pid: int) -> int:
    """Start time of a process in clock ticks since boot: with the pid, its identity. 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except OSError:
        return 0


def _scope_counter() -> str:
    with open("/proc/self/cgroup") as file:
        for line in file:
            if line.startswith("0::"):
                return f"/sys/fs/cgroup{line[3:].strip()}/memory.events"
    raise OSError(0, "systemd has put this process in no scope")


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit("this is run by the server: launch.main()")
