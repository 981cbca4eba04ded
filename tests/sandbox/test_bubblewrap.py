"""bubblewrap sandboxes under attack, in want, and after the death of their server."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from mlgym_sandbox import cgroups, environment
from mlgym_sandbox.backends import bubblewrap_setup, bubblewrap_state
from mlgym_sandbox.backends.bubblewrap import BubblewrapBackend
from mlgym_sandbox.errors import BackendUnavailableError, SandboxError, SandboxLostError
from mlgym_sandbox.sandbox import Sandbox
from mlgym_sandbox.spec import JobStatus, Limits, Mount, SandboxSpec


def unavailable() -> str | None:
    try:
        bubblewrap_setup.look()
    except BackendUnavailableError as error:
        return str(error)
    return None


WHY_NOT = unavailable()
pytestmark = [pytest.mark.anyio, pytest.mark.bubblewrap, pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

SMALL = Limits(cpus=1, memory_mb=256, pids=64, storage_mb=32, tmp_mb=16)


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests here, so that what is made once stays made."""
    return tmp_path_factory.mktemp("bubblewrap") / "home"


@pytest.fixture(autouse=True)
def home(module_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLGYM_HOME", str(module_home))
    return module_home


@pytest.fixture
def backend() -> BubblewrapBackend:
    return BubblewrapBackend()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.csv").write_text("x,y\n1,2\n")
    return folder


def spec(data: Path | None = None, **changes: object) -> SandboxSpec:
    values: dict[str, object] = {
        "name": f"t-{secrets.token_hex(4)}",
        "environment": "bare",
        "limits": SMALL,
        "mounts": (Mount(data, "/data"),) if data else (),
    }
    return SandboxSpec(**values | changes)  # type: ignore[arg-type]


@pytest.fixture
async def sandbox(backend: BubblewrapBackend, data: Path) -> AsyncIterator[Sandbox]:
    async with await backend.create(spec(data)) as made:
        yield made


async def sh(sandbox: Sandbox, command: str, wait_s: float = 30) -> tuple[JobStatus, str]:
    status, output = await sandbox.run(command, wait_s=wait_s)
    return status, output.data.decode(errors="replace")


async def py(sandbox: Sandbox, program: str) -> str:
    status, output = await sandbox.run(["python", "-c", program], wait_s=30)
    text = output.data.decode(errors="replace")
    assert status.exit_code == 0, text
    return text


def traces(name: str) -> list[str]:
    """Everything on this machine that a sandbox of that name has left."""
    left = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/mlgym/{name}")]
    left += [str(path) for path in Path("/sys/fs/cgroup").glob(f"mlgym/{name}")]
    left += [line for line in Path("/proc/self/mounts").read_text().splitlines() if name in line]
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            left += [text for text in [backing.read_text()] if name in text]
    if (bubblewrap_state.root() / name).exists():
        left.append(str(bubblewrap_state.root() / name))
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            left += [str(folder)] if any(name in os.readlink(fd) for fd in (folder / "fd").iterdir()) else []
    return left


# --- what commands see


async def test_commands_have_python_bash_and_the_usual_tools(sandbox: Sandbox) -> None:
    status, text = await sh(sandbox, "pwd; id -u; which python awk sed tar gzip perl; echo $HOME $DATA_DIR $TMPDIR")
    assert status.exit_code == 0
    lines = text.splitlines()
    assert lines[:3] == ["/workspace", "1000", "/opt/env/bin/python"]
    assert lines[-1] == "/workspace /data /tmp"
    assert await py(sandbox, "import os; print(os.environ['OMP_NUM_THREADS'])") == "1\n"


async def test_commands_have_no_rights(sandbox: Sandbox) -> None:
    _, text = await sh(sandbox, "grep -E 'Cap|NoNewPrivs|Seccomp:|Groups' /proc/self/status")
    values = dict(line.split(":\t") for line in text.splitlines() if ":\t" in line)
    assert all(int(values[name], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"))
    assert int(values["CapBnd"], 16) & ~0xE0 == 0
    assert values["NoNewPrivs"] == "1"
    assert values["Seccomp"] == "2"
    assert values.get("Groups", "").strip() in ("", "1000")


async def test_nothing_of_the_machine_shows(sandbox: Sandbox, home: Path) -> None:
    (home / "vault").mkdir(parents=True, exist_ok=True)
    (home / "vault" / "labels").write_text("secret-of-the-vault")
    host = subprocess.Popen(["sleep", "98765"])
    try:
        program = f"""
import os, sys
allowed = {str(Path(sys.base_prefix).resolve())!r}
for top in ("/root", "/home", "/var", "/run", "/srv", "/mnt", "/media", "/boot", "/sys"):
    for folder, folders, files in os.walk(top):
        inside = (folder + "/").startswith(allowed + "/") or allowed.startswith(folder)
        print(*[folder + "/" + f for f in files if not inside])
for path in ("/etc/shadow", "/etc/hostname", "/etc/ssh", {str(home)!r}, "/usr/share/datasets", "/usr/share/doc"):
    if os.path.exists(path):
        print("there:", path)
for pid in filter(str.isdigit, os.listdir("/proc")):
    if open(f"/proc/{{pid}}/cmdline", "rb").read() == b"sleep\\x0098765\\x00":
        print("host process", pid)
"""
        assert (await py(sandbox, program)).split() == []
        status, _ = await sh(sandbox, "find / -name labels -not -path '/proc/*' 2>/dev/null | grep vault")
        assert status.exit_code == 1
    finally:
        host.kill()
        host.wait()


async def test_the_command_lines_inside_tell_no_host_paths(sandbox: Sandbox, home: Path) -> None:
    _, text = await sh(sandbox, "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'")
    assert "/opt/mlgym/runner" in text
    assert str(home) not in text


async def test_there_is_no_network_but_loopback(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"""
import errno, socket
print(*sorted(name for _, name in socket.if_nameindex()))
for address in (("127.0.0.1", {port}), ("192.0.2.1", 80)):
    try:
        socket.create_connection(address, 2)
    except OSError as error:
        print(errno.errorcode[error.errno])
with socket.create_server(("127.0.0.1", 0)) as own:
    socket.create_connection(own.getsockname(), 2).close()
    print("loopback works")
"""
        assert (await py(sandbox, program)).split("\n")[:4] == ["lo", "ECONNREFUSED", "ENETUNREACH", "loopback works"]


async def test_only_the_workspace_and_tmp_can_be_written(sandbox: Sandbox) -> None:
    places = "/ /usr /usr/bin /usr/local/lib /opt /opt/env /opt/env/bin /data /etc /dev /home /var /run /opt/mlgym"
    attempt = "(echo x > $d/probe) 2>/dev/null && echo WROTE $d"
    _, text = await sh(sandbox, f"for d in {places}; do {attempt}; done; true")
    assert text == ""
    status, _ = await sh(sandbox, "echo y >> /data/train.csv || echo z > /opt/mlgym/runner.pyc")
    assert status.exit_code != 0
    status, _ = await sh(
        sandbox, "echo x > /workspace/a && echo x > /tmp/a && echo x > /dev/shm/a && cat /data/train.csv"
    )
    assert status.exit_code == 0


# --- what commands try


ESCAPES = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def attempt(name, *args):
    if getattr(libc, name)(*args) != -1:
        print(name, "succeeded")
attempt("mount", b"none", b"/tmp", b"tmpfs", 0, None)
attempt("mount", b"/usr", b"/tmp", None, 4096, None)
attempt("mount", None, b"/usr/bin", None, 32 | 4096, None)
attempt("umount2", b"/data", 2)
attempt("unshare", 0x10000000)
attempt("unshare", 0x20000)
attempt("setns", os.open("/proc/self/ns/net", 0), 0)
attempt("chroot", b"/tmp")
attempt("pivot_root", b"/tmp", b"/tmp")
attempt("ptrace", 16, 1, 0, 0)
attempt("ptrace", 0, 0, 0, 0)
attempt("sethostname", b"x", 1)
attempt("setuid", 0)
attempt("setgid", 0)
attempt("swapon", b"/tmp/x", 0)
attempt("reboot", 0)
attempt("personality", 0x0040000)
for name, number in (("bpf", 321), ("perf", 298), ("keyctl", 250), ("add_key", 248), ("io_uring", 425),
                     ("userfaultfd", 323), ("kexec", 246), ("init_module", 175), ("handle", 304)):
    if os.uname().machine == "x86_64" and libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1:
        print(name, "succeeded")
for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/self/uid_map", "/proc/self/setgroups",
             "/proc/1/mem", "/proc/1/oom_score_adj", "/proc/sys/user/max_user_namespaces"):
    try:
        os.write(os.open(path, os.O_WRONLY), b"0 0 1\\n")
        print(path, "written")
    except OSError:
        pass
for name in ("sda", "loop0", "vda", "mem", "kmsg"):
    try:
        os.mknod("/tmp/" + name, 0o60666, os.makedev(7, 0)); print("mknod")
    except OSError:
        pass
"""


async def test_no_escape_call_succeeds(sandbox: Sandbox) -> None:
    assert await py(sandbox, ESCAPES) == ""


RUNNER = """
import os, signal
for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
    try:
        os.kill(1, number)
        print("signalled", number)
    except PermissionError:
        pass
for path in ("environ", "mem", "maps", "fd/0", "fd/1", "fd/3", "root", "cwd", "exe", "stack", "auxv", "map_files"):
    for how in ("open", "list", "link"):
        try:
            if how == "open": open(f"/proc/1/{path}", "rb").read(1)
            elif how == "list": os.listdir(f"/proc/1/{path}")
            else: os.readlink(f"/proc/1/{path}")
            print("reached", path, how)
        except OSError:
            pass
for path in ("/run/mlgym", "/run"):
    try:
        os.listdir(path); print("listed", path)
    except PermissionError:
        pass
"""


async def test_the_runner_is_out_of_reach(sandbox: Sandbox, backend: BubblewrapBackend) -> None:
    if (await backend.enforcement())["users"].startswith("one uid"):
        pytest.skip("one uid only")
    assert await py(sandbox, RUNNER) == ""
    assert await sandbox.ping() < 5


async def test_a_fork_bomb_of_ten_thousand_leaves_all_well(sandbox: Sandbox) -> None:
    before = len(list(Path("/proc").glob("[0-9]*")))
    program = """
import os, time
for _ in range(10000):
    try:
        if os.fork() == 0:
            os.setsid()
            time.sleep(1000)
    except OSError:
        pass
"""
    status, _ = await sandbox.run(["python", "-c", program], wait_s=30, timeout_s=60)
    assert status.state == "exited"
    assert len(list(Path("/proc").glob("[0-9]*"))) < before + 64 + 40
    assert (await sandbox.usage()).processes <= 64
    await sandbox.kill_all()
    status, text = await sh(sandbox, "echo well")
    assert (status.exit_code, text) == (0, "well\n")


async def test_endless_forking_is_stopped_by_the_time_limit(sandbox: Sandbox) -> None:
    status, _ = await sandbox.run(":(){ :|:& }; :; sleep 100", wait_s=30, timeout_s=2, grace_s=0.5)
    assert status.reason == "timeout"
    await sandbox.kill_all()
    with anyio.fail_after(20):
        while (await sandbox.usage()).processes:
            await sandbox.kill_all()
    assert (await sh(sandbox, "echo well"))[1] == "well\n"


async def test_a_memory_hog_dies_alone_and_is_told_apart(sandbox: Sandbox, backend: BubblewrapBackend) -> None:
    if not (await backend.enforcement())["memory"].startswith(("cgroup", "systemd")):
        pytest.skip("no group to count in")
    status, _ = await sandbox.run(["python", "-c", "x = bytearray(1 << 30)\nx[::4096] = b'1' * (1 << 18)"], wait_s=60)
    assert (status.state, status.reason, status.oom) == ("killed", "oom", True)
    assert (await sh(sandbox, "echo well"))[1] == "well\n"
    assert (await sandbox.usage()).oom_kills >= 1


async def test_memory_file_systems_cannot_eat_the_memory(sandbox: Sandbox) -> None:
    _, text = await sh(sandbox, "for d in /tmp /dev/shm; do dd if=/dev/zero of=$d/x bs=1M count=500 2>&1 | tail -1; "
                                "df --output=size -m $d | tail -1; done")  # fmt: skip
    assert (await sh(sandbox, "echo well"))[1] == "well\n", text
    _, sizes = await sh(sandbox, "df --output=used -m /tmp /dev/shm | tail -2")
    assert sum(map(int, sizes.split())) <= SMALL.memory_mb // 2


async def test_a_disk_filler_meets_a_full_disk(sandbox: Sandbox, backend: BubblewrapBackend) -> None:
    status, text = await sh(sandbox, "head -c 200M /dev/zero > big; echo rc=$?; stat -c %s big", 60)
    if (await backend.enforcement())["disk"] == "ext4 image":
        assert "No space left" in text
        assert int(text.split()[-1]) <= (SMALL.storage_mb + 4) << 20
    else:
        assert status.reason == "disk" or "rc=0" not in text
    assert (await sh(sandbox, "rm -f big; echo well > note; cat note"))[1] == "well\n"


async def test_the_workspace_holds_what_was_promised(sandbox: Sandbox) -> None:
    status, text = await sh(sandbox, f"head -c {SMALL.storage_mb - 2}M /dev/zero > big && echo fits; rm big", 60)
    assert (status.exit_code, text) == (0, "fits\n")


async def test_many_threads_and_processes_work(sandbox: Sandbox) -> None:
    program = """
import multiprocessing, threading
with multiprocessing.Pool(4) as pool:
    print(sum(pool.map(abs, range(100))))
threads = [threading.Thread(target=sum, args=([1],)) for _ in range(20)]
[t.start() for t in threads]; [t.join() for t in threads]
"""
    assert await py(sandbox, program) == "4950\n"


# --- making and removing


async def test_closing_leaves_nothing(backend: BubblewrapBackend, data: Path) -> None:
    sandbox = await backend.create(spec(data))
    await sandbox.start("setsid sleep 1000 & mkdir -p a; cd a; for i in $(seq 300); do mkdir d; cd d; done; chmod 0 .")
    await sandbox.write_file("/workspace/x", b"x")
    assert traces(sandbox.name)
    await sandbox.close()
    assert traces(sandbox.name) == []
    await backend.remove(sandbox.name)  # gone already: no error


async def test_a_name_is_given_once(backend: BubblewrapBackend, sandbox: Sandbox) -> None:
    with pytest.raises(SandboxError, match="already"):
        await backend.create(spec(name=sandbox.name))
    assert await sandbox.ping() < 5


async def test_two_sandboxes_share_no_user(backend: BubblewrapBackend, sandbox: Sandbox) -> None:
    if (await backend.enforcement())["users"] != "two unused uids per sandbox":
        pytest.skip("needs root")
    async with await backend.create(spec()) as other:
        maps = [(await sh(one, "cat /proc/self/uid_map"))[1].split() for one in (sandbox, other)]
    assert maps[0][1] != maps[1][1]
    assert all(int(text[1]) >= 0x70000000 and text[2] == "1" for text in maps)


async def test_a_create_that_fails_leaves_nothing(
    backend: BubblewrapBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = spec(mounts=(Mount(tmp_path / "nothing", "/data"),))
    with pytest.raises(SandboxError, match="nothing"):
        await backend.create(wanted)
    assert traces(wanted.name) == []
    monkeypatch.setattr("mlgym_sandbox.backends.bubblewrap.RUNNER_PATH", "/opt/mlgym/none")
    wanted = spec()
    with pytest.raises(SandboxError, match="/opt/mlgym/none"):
        await backend.create(wanted)
    assert traces(wanted.name) == []


@as_root
async def test_data_that_only_its_owner_can_read_is_refused(backend: BubblewrapBackend, data: Path) -> None:
    data.chmod(0o700)
    with pytest.raises(SandboxError, match="chmod"):
        await backend.create(spec(data))


@pytest.mark.parametrize("after_s", [0.0, 0.005, 0.02, 0.04, 0.06, 0.08])
async def test_a_cancelled_create_leaves_nothing(backend: BubblewrapBackend, after_s: float) -> None:
    await backend.enforcement()
    await environment.prepare("bare")
    wanted = spec()
    made: Sandbox | None = None
    with anyio.move_on_after(after_s):
        made = await backend.create(wanted)
    if made is not None:
        await made.close()
    assert traces(wanted.name) == []


async def test_an_environment_that_is_not_prepared_says_how_to(backend: BubblewrapBackend) -> None:
    with pytest.raises(BackendUnavailableError, match="prepare light"):
        await backend.create(spec(environment="light"))


SERVER = """
import json, sys, anyio
from mlgym_sandbox.backends.bubblewrap import BubblewrapBackend
from mlgym_sandbox.spec import Limits, SandboxSpec
async def main():
    spec = SandboxSpec(sys.argv[1], environment="bare", labels={"session": sys.argv[1]}, limits=Limits(memory_mb=256))
    sandbox = await BubblewrapBackend().create(spec)
    job = await sandbox.start("echo begun; while [ ! -e go ]; do sleep 0.05; done; echo done")
    print(job.id, flush=True)
    await anyio.sleep_forever()
anyio.run(main)
"""


async def test_a_sandbox_outlives_its_server_and_is_found_attached_and_removed(backend: BubblewrapBackend) -> None:
    name = f"t-{secrets.token_hex(4)}"
    paths = os.pathsep.join(path for path in sys.path if path)
    server = await anyio.open_process(
        [sys.executable, "-c", SERVER, name], env=dict(os.environ, PYTHONPATH=paths), stderr=None
    )
    try:
        assert server.stdout is not None
        with anyio.fail_after(30):
            job_id = (await server.stdout.receive()).decode().strip()
        server.send_signal(signal.SIGKILL)
        await server.wait()
        found = await backend.find({"session": name})
        assert [(one.name, one.running) for one in found] == [(name, True)]
        assert await backend.find({"session": "another"}) == ()
        sandbox = await backend.attach(name)
        assert (await sandbox.jobs())[0].state == "running"
        await sandbox.write_file("/workspace/go", b"")
        status = await sandbox.wait(job_id, 20)
        assert status.exit_code == 0
        assert (await sandbox.output(job_id)).data == b"begun\ndone\n"
        await sandbox.detach()
    finally:
        await server.aclose()
        await backend.remove(name)
    assert traces(name) == []
    assert await backend.find({"session": name}) == ()
    with pytest.raises(SandboxLostError):
        await backend.attach(name)


async def test_a_killed_sandbox_is_found_dead_and_removed(backend: BubblewrapBackend) -> None:
    wanted = spec(labels={"a": "b"})
    sandbox = await backend.create(wanted)
    state = bubblewrap_state.load(wanted.name)
    assert state is not None
    pids = bubblewrap_state.pids(state)
    assert pids is not None
    os.kill(pids.first, signal.SIGKILL)
    with pytest.raises(SandboxLostError):
        await sandbox.wait((await sandbox.start("sleep 100")).id, 20)
    with anyio.fail_after(10):
        while (await backend.find({"a": "b"}))[0].running:
            await anyio.sleep(0.01)
    with pytest.raises(SandboxLostError):
        await backend.attach(wanted.name)
    await backend.remove(wanted.name)
    assert traces(wanted.name) == []


async def test_one_that_nobody_speaks_to_ends_itself(backend: BubblewrapBackend) -> None:
    wanted = spec(ttl_s=1.0, labels={"a": "b"})
    sandbox = await backend.create(wanted)
    await sandbox.detach()
    with anyio.fail_after(20):
        while (await backend.find({"a": "b"}))[0].running:
            await anyio.sleep(0.05)
    await backend.remove(wanted.name)
    assert traces(wanted.name) == []


async def test_the_probe_tells_what_is_enforced(backend: BubblewrapBackend) -> None:
    checks = await backend.probe()
    assert checks[-1].ok
    assert checks[-1].name == "bubblewrap works"
    assert all(check.ok or check.mend for check in checks)
    have = await backend.enforcement()
    assert {"users", "memory", "processes", "cpu", "disk", "tmp", "network", "system calls", "oom"} == set(have)


async def test_without_bubblewrap_the_probe_says_how_to_get_it(
    backend: BubblewrapBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (check,) = await backend.probe()
    assert not check.ok
    assert check.mend is not None
    assert "apt install bubblewrap" in check.mend
    with pytest.raises(BackendUnavailableError, match="install"):
        await backend.create(spec())


@pytest.mark.parametrize(
    ("said", "sysctl", "contained", "mend"),
    [
        ("bwrap: setting up uid map: Permission denied", {"kernel/apparmor_restrict_unprivileged_userns": "1"}, False,
         "apparmor_restrict_unprivileged_userns=0"),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted",
         {"kernel/apparmor_restrict_unprivileged_userns": "1"}, False, "AppArmor"),
        ("bwrap: No permissions to create new namespace", {"kernel/unprivileged_userns_clone": "0"}, False,
         "unprivileged_userns_clone=1"),
        ("bwrap: No permissions to create new namespace", {"user/max_user_namespaces": "0"}, False,
         "max_user_namespaces"),
        ("bwrap: No permissions to create new namespace", {}, True, "--security-opt"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", {}, False, "/proc"),
    ],
)  # fmt: skip
async def test_each_known_failure_has_its_remedy(
    said: str, sysctl: dict[str, str], contained: bool, mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bubblewrap_setup, "_sysctl", sysctl.get)
    monkeypatch.setattr(bubblewrap_setup, "_contained", lambda: contained)
    assert mend in bubblewrap_setup.explain(said)


# --- an ordinary user, with and without subordinate uids; and root in want


@pytest.fixture(scope="session")
def light_home(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data folder with the light environment in it: the user's own if it has one."""
    found = environment.find("light")
    if found is None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLGYM_HOME", str(tmp_path_factory.mktemp("light")))
            found = anyio.run(environment.prepare, "light")
    return str(found.path.parent.parent)


async def test_the_light_environment_works_inside(
    light_home: str, backend: BubblewrapBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLGYM_HOME", light_home)
    program = """
import numpy, scipy, pandas, sklearn, PIL, PIL.Image
from sklearn.linear_model import LogisticRegression
from joblib import Parallel, delayed
a = numpy.random.default_rng(0).normal(size=(600, 600))
print(numpy.isfinite(a @ a).all(), Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(3)))
LogisticRegression().fit(a[:, :5], a[:, 0] > 0)
"""
    wanted = spec(environment="light", limits=Limits(memory_mb=2048, storage_mb=64))
    async with await backend.create(wanted) as sandbox:
        status, output = await sandbox.run(["python", "-c", program], wait_s=90)
        assert (status.exit_code, output.data.decode().strip()) == (0, "True [0, 1, 2]")


@as_root
@pytest.mark.parametrize(("limits", "sized"), [(False, True), (True, False), (False, False)])
async def test_root_without_groups_or_images_still_limits_what_it_can(limits: bool, sized: bool, data: Path) -> None:
    backend = BubblewrapBackend(limits=limits, sized=sized)
    async with await backend.create(spec(data)) as sandbox:
        assert await py(sandbox, ESCAPES) == ""
        assert await py(sandbox, RUNNER) == ""
        hog = await sandbox.run(["python", "-c", "x = bytearray(1 << 30)\nx[::4096] = b'1' * (1 << 18)"], wait_s=60)
        assert hog[0].exit_code != 0
        status, text = await sh(sandbox, "head -c 200M /dev/zero > big; echo rc=$?", 60)
        assert status.reason == "disk" or "rc=0" not in text
        bomb = "import os,time\nfor _ in range(2000):\n try:\n  os.fork() or time.sleep(99)\n except OSError: pass"
        await sandbox.run(["python", "-c", bomb], wait_s=3)
        assert (await sandbox.usage()).processes <= 64 + cgroups.PIDS_HEADROOM
        await sandbox.kill_all()
        assert (await sh(sandbox, "rm -f big; echo well"))[1] == "well\n"
    assert traces(sandbox.name) == []


ORDINARY = Path(__file__).with_name("ordinary_user.py")
SYSTEM_PYTHON = "/usr/bin/python3"
NOBODY = 65534


def ordinary(home: Path, *, subordinate: bool) -> dict[str, object]:
    """Run the checks of ``ordinary_user.py`` as nobody; return what it found."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    import mlgym_sandbox

    paths = os.pathsep.join([str(Path(mlgym_sandbox.__file__).parent.parent), *packages])
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    inner = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env", "-i",
             f"MLGYM_HOME={home}", f"PYTHONPATH={paths}", "PATH=/usr/bin:/bin:/usr/sbin", "LANG=C.UTF-8",
             SYSTEM_PYTHON, "-B", str(ORDINARY)]  # fmt: skip
    usable = "import anyio, mlgym_sandbox.spec, sys; sys.exit(sys.version_info < (3, 11))"
    if subprocess.run([*inner[:-2], "-c", usable], capture_output=True, check=False, cwd="/").returncode:
        pytest.skip("the system's Python cannot import this checkout as another user")
    ranges = home.parent / "ranges"
    ranges.write_text(f"nobody:{1_700_000_000}:65536\n" if subordinate else "")
    binds = f'mount --bind {ranges} /etc/subuid && mount --bind {ranges} /etc/subgid && exec "$@"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", binds, "sh", *inner], capture_output=True, text=True,
                          timeout=100, check=False, cwd="/")  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


@as_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
@pytest.mark.parametrize("subordinate", [True, False])
async def test_an_ordinary_user_has_sandboxes_too(subordinate: bool) -> None:
    if not Path("/etc/subuid").exists() or (subordinate and shutil.which("newuidmap") is None):
        pytest.skip("needs /etc/subuid and uidmap")
    with tempfile.TemporaryDirectory(prefix="mlgym-") as folder:  # pytest's own are closed to other users
        Path(folder).chmod(0o755)
        found = await anyio.to_thread.run_sync(lambda: ordinary(Path(folder, "nobody"), subordinate=subordinate))
    assert found["users"] == (
        "your uid for commands, a subordinate uid for the runner" if subordinate else "one uid for commands and runner"
    )
    assert found["escapes"] == ""
    assert found["well"] == "well\n"
    assert found["left"] == []
    assert found["attached"] == "kept\n"
    assert found["processes"] <= 80  # type: ignore[operator]
    assert found["hog"] != 0
    assert found["alive"]
    if subordinate:
        assert found["runner"] == ""
    else:
        # Same uid: signals are sent, but the kernel shields the first process; its memory is closed all the same.
        assert "reached" not in str(found["runner"]).replace("reached root", "")
