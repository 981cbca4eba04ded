"""The Docker backend against a real engine: what it promises of isolation, limits, loss and leftovers."""

from __future__ import annotations

import os
import secrets
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import docker
import docker.errors
import pytest
from anyio.abc import SocketStream

from mlgym_sandbox.backends import docker_state
from mlgym_sandbox.backends.docker import DockerBackend
from mlgym_sandbox.backends.docker_container import share_memory
from mlgym_sandbox.backends.docker_engine import Engine
from mlgym_sandbox.backends.docker_stream import EngineAddress, attach
from mlgym_sandbox.errors import BackendUnavailableError, SandboxError, SandboxLostError
from mlgym_sandbox.sandbox import Sandbox
from mlgym_sandbox.spec import JobStatus, Limits, Mount, SandboxSpec
from tests.sandbox.engine import ENGINE, missing

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

SMALL = Limits(cpus=1, memory_mb=256, pids=48, storage_mb=16, tmp_mb=16, output_mb=1)


def spec(image: str, **changes: Any) -> SandboxSpec:
    return SandboxSpec(**{"name": f"test-{secrets.token_hex(4)}", "image": image, "limits": SMALL, **changes})


async def sh(sandbox: Sandbox, command: str, timeout_s: float = 20) -> tuple[JobStatus, str]:
    status, output = await sandbox.run(command, wait_s=timeout_s + 5, timeout_s=timeout_s, grace_s=0.2)
    assert status.state != "running", f"still running: {command}"
    return status, output.data.decode()


async def leftovers(engine: DockerBackend, name: str) -> list[str]:
    """Everything of a sandbox that exists."""

    def look(client: docker.APIClient) -> list[str]:
        label = {"label": f"mlgym.sandbox={name}"}
        volumes = client.volumes(filters=label)["Volumes"] or []
        return [c["Id"] for c in client.containers(all=True, filters=label)] + [v["Name"] for v in volumes]

    found = await engine.engine.call(look)
    return found + ([f"{name}.json"] if docker_state.load(name) else [])


async def gone(engine: DockerBackend, name: str) -> None:
    with anyio.fail_after(20):
        while await leftovers(engine, name):
            await anyio.sleep(0.05)


@pytest.fixture
async def box(engine: DockerBackend, host_image: str) -> AsyncIterator[Sandbox]:
    sandbox = await engine.create(spec(host_image))
    yield sandbox
    await sandbox.close()
    await engine.remove(sandbox.name)  # for those that let go of it: closing does nothing then
    assert await leftovers(engine, sandbox.name) == []


async def test_a_command_has_no_capability_and_can_gain_none(box: Sandbox) -> None:
    _, status = await sh(box, "id -u; id -G; grep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs|Seccomp):' /proc/self/status")
    lines = status.split("\n")
    assert lines[:2] == ["1000", "1000"]
    fields = dict(line.split(":\t") for line in lines[2:] if line)
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


async def test_a_command_can_neither_read_nor_signal_the_runner(box: Sandbox) -> None:
    for attack in ("cat /proc/1/environ", "cat /proc/1/mem", "ls /proc/1/fd", "ls /run/mlgym", "echo > /proc/1/fd/1"):
        job, output = await sh(box, attack)
        assert job.exit_code != 0, attack
        assert "ermission denied" in output, attack
    job, output = await sh(box, "kill -9 1")
    assert job.exit_code != 0
    assert "not permitted" in output
    assert await box.ping() > 0


async def test_the_secret_of_the_connection_is_nowhere_on_the_engine(box: Sandbox, engine: DockerBackend) -> None:
    about = await engine.engine.call(lambda client: str(client.inspect_container(f"mlgym-{box.name}")))
    assert box.magic.hex() not in about
    assert repr(box.magic) not in about
    file = docker_state.folder() / f"{box.name}.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_there_is_no_network_but_loopback(box: Sandbox) -> None:
    code = (
        "import socket,os\n"
        "print(sorted(os.listdir('/sys/class/net')))\n"
        "s=socket.create_server(('127.0.0.1',0)); socket.create_connection(s.getsockname()); print('loopback')\n"
        "for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n"
        "    try: socket.socket(socket.AF_INET,kind).connect(('192.0.2.1',53)); print('out')\n"
        "    except OSError as e: print(e.strerror)\n"
    )
    await box.write_file("/workspace/net.py", code.encode())
    _, output = await sh(box, "python net.py")
    assert output.split("\n")[:4] == ["['lo']", "loopback", "Network is unreachable", "Network is unreachable"]


async def test_the_root_is_read_only_and_the_hosts_files_are_not_there(box: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host")
    _, output = await sh(box, f"cat {secret}; ls /home /var/lib; cat /etc/shadow; ls /var/run/docker.sock")
    assert "host" not in output.split()
    assert output.count("No such file") == 4 - output.count("/var/lib:\n")
    for place in ("/x", "/usr/x", "/etc/x", "/opt/env/x", "/data/x", "/var/tmp/x", "/run/x"):
        job, output = await sh(box, f"touch {place}")
        assert job.exit_code == 1, place
        assert "Read-only" in output or "Permission denied" in output, place
    job, _ = await sh(box, "mount -t tmpfs none /workspace || unshare -Ur true")
    assert job.exit_code != 0


async def test_one_sandbox_sees_nothing_of_another(box: Sandbox, engine: DockerBackend, host_image: str) -> None:
    await box.write_file("/workspace/mine.txt", b"mine")
    await sh(box, "echo mine > /tmp/mine.txt; (sleep 60 & )")
    other = await engine.create(spec(host_image))
    try:
        _, output = await sh(other, "ls -A /workspace /tmp /dev/shm; ls -d /proc/[0-9]*")
        assert "mine" not in output
        _, output = await sh(other, "ps -eo comm")
        assert "sleep" not in output
    finally:
        await other.close()


async def test_data_is_copied_once_and_shown_read_only(engine: DockerBackend, host_image: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.bin").write_bytes(os.urandom(100_000))
    (tmp_path / "label.txt").write_text("seven")
    (tmp_path / "label.txt").chmod(0o600)
    boxes: list[Sandbox] = []

    async def make() -> None:
        boxes.append(await engine.create(spec(host_image, mounts=(Mount(tmp_path, "/data"),))))

    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(make)
        for sandbox in boxes:
            _, output = await sh(sandbox, "cat $DATA_DIR/label.txt; stat -c %s /data/sub/x.bin; touch /data/y")
            assert output.startswith("seven100000\n")
            assert "Read-only" in output
        volumes = await engine.engine.call(
            lambda client: [
                mount["Name"]
                for sandbox in boxes
                for mount in client.inspect_container(f"mlgym-{sandbox.name}")["Mounts"]
                if mount["Destination"] == "/data"
            ]
        )
        assert len(volumes) == 3
        assert len(set(volumes)) == 1
        await engine.prune()
        assert await engine.volumes.holds_data(volumes[0]), "data in use was removed"
    finally:
        for sandbox in boxes:
            await sandbox.close()
    assert await engine.prune() >= 1
    assert not await engine.volumes.holds_data(volumes[0])


async def test_an_unfinished_copy_of_data_is_never_used(engine: DockerBackend, host_image: str, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.mkdir()
    (good / "a").write_text("content")
    mount = Mount(good, "/data")
    name = await engine.volumes.ensure_data(mount, host_image)

    def break_off(client: docker.APIClient) -> None:
        """As a server leaves it that was killed while filling: no mark, a lock that has expired, half the data."""
        client.remove_volume(name + "-ready")
        client.create_container(
            host_image, command=["true"], name=f"{name}-fill", labels={"mlgym": "1", "mlgym.expires": "1"}
        )

    await engine.engine.call(break_off)
    assert not await engine.volumes.holds_data(name)
    with anyio.fail_after(20):
        sandbox = await engine.create(spec(host_image, mounts=(mount,)))
    try:
        _, output = await sh(sandbox, "cat /data/a")
        assert output == "content"
    finally:
        await sandbox.close()
        await engine.prune()


async def test_a_fork_bomb_is_bounded_and_can_be_stopped(box: Sandbox) -> None:
    job = await box.start("b() { b | b & }; b; sleep 60")
    with anyio.fail_after(20):
        while (await box.usage()).processes < 10:
            await anyio.sleep(0.05)
    assert (await box.usage()).processes <= SMALL.pids + 8
    with anyio.fail_after(20):
        await box.stop(job.id, grace_s=0.2)
        await box.kill_all()
    _, output = await sh(box, "echo alive")
    assert output == "alive\n"


async def test_running_out_of_memory_is_told_and_the_sandbox_goes_on(box: Sandbox) -> None:
    job, _ = await sh(box, "python -c 'x=[bytearray(1<<20) for _ in range(4096)]'")
    assert job.oom
    assert job.exit_code == 137
    job, output = await sh(box, "echo alive")
    assert (job.oom, output) == (False, "alive\n")


async def test_files_in_memory_never_starve_the_commands_that_follow(box: Sandbox) -> None:
    await sh(box, "for d in /workspace /tmp /dev/shm; do head -c 1G /dev/zero > $d/fill; done")
    job, output = await sh(box, "python -c 'x = bytearray(60 << 20); print(len(x))'")
    assert (job.exit_code, output) == (0, f"{60 << 20}\n")


async def test_a_small_workspace_has_a_hard_size(box: Sandbox) -> None:
    job, output = await sh(box, "head -c 1G /dev/zero > big; stat -c %s big")
    assert "No space left" in output
    assert int(output.split()[-1]) <= SMALL.storage_mb << 20
    assert job.exit_code == 0


async def test_a_large_workspace_is_watched_and_its_filler_killed(engine: DockerBackend, host_image: str) -> None:
    limits = Limits(cpus=1, memory_mb=128, pids=48, storage_mb=100, tmp_mb=8, output_mb=1)
    assert not share_memory(limits).workspace_in_memory
    sandbox = await engine.create(spec(host_image, limits=limits))
    try:
        first, output = await sh(sandbox, "stat -c %u . && head -c 1M /dev/zero > first")
        assert (first.exit_code, output) == (0, "1000\n"), "a workspace on disk is the agent's, too"
        fill = "for i in $(seq 1000); do head -c 20M /dev/zero > f$i || exit 3; sleep 0.2; done"
        job, _ = await sh(sandbox, fill, timeout_s=60)
        # An engine on xfs with project quotas stops the write itself.
        assert job.reason == "disk" or job.exit_code == 3
        await sh(sandbox, "rm -f f*")
        _, output = await sh(sandbox, "echo alive")
        assert output == "alive\n"
    finally:
        await sandbox.close()


async def test_jobs_go_on_while_no_server_is_attached(engine: DockerBackend, host_image: str) -> None:
    sandbox = await engine.create(spec(host_image, labels={"test.session": "abc"}))
    try:
        job = await sandbox.start("echo one; until [ -e go ]; do sleep 0.05; done; echo two")
        await sandbox.detach()
        found = await DockerBackend().find({"test.session": "abc"})
        assert [(one.name, one.running, one.labels) for one in found] == [(sandbox.name, True, {"test.session": "abc"})]
        again = await DockerBackend().attach(sandbox.name)
        await again.write_file("/workspace/go", b"")
        done = await again.wait(job.id, 20)
        assert done.exit_code == 0
        assert (await again.output(job.id)).data == b"one\ntwo\n"
        await again.detach()
    finally:
        await engine.remove(sandbox.name)
    assert await leftovers(engine, sandbox.name) == []


async def test_only_who_knows_the_secret_can_attach(box: Sandbox, engine: DockerBackend) -> None:
    state = docker_state.load(box.name)
    assert state is not None
    docker_state.forget(box.name)
    with pytest.raises(SandboxLostError, match="its secret is not in"):
        await engine.attach(box.name)
    with pytest.raises(SandboxLostError, match="there is no sandbox"):
        await engine.attach("no-such-box")
    docker_state.save(box.name, state)


@pytest.mark.parametrize(
    ("kill", "words"),
    [
        (lambda client, name: client.kill(name), "killed from outside"),
        (lambda client, name: client.remove_container(name, force=True), "(removed|killed) from outside"),
    ],
    ids=["killed", "removed"],
)
async def test_a_container_that_dies_is_a_lost_sandbox_with_the_reason(
    engine: DockerBackend, host_image: str, kill: Any, words: str
) -> None:
    sandbox = await engine.create(spec(host_image))
    try:
        job = await sandbox.start("sleep 60")
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                with anyio.fail_after(20), pytest.raises(SandboxLostError, match=words):
                    await sandbox.wait(job.id, 60)

            tasks.start_soon(wait)
            await engine.engine.call(lambda client: kill(client, f"mlgym-{sandbox.name}"))
        with pytest.raises(SandboxLostError):
            await sandbox.ping()
        with pytest.raises(SandboxLostError):
            await engine.attach(sandbox.name)
    finally:
        await sandbox.close()
    assert await leftovers(engine, sandbox.name) == []


async def test_a_name_that_is_taken_is_refused_and_its_owner_left_alone(
    box: Sandbox, engine: DockerBackend, host_image: str
) -> None:
    with pytest.raises(SandboxError, match="already a sandbox"):
        await engine.create(spec(host_image, name=box.name))
    await box.write_file("/workspace/still", b"here")
    assert (await engine.find({})) != ()
    again = await engine.attach(box.name)
    assert (await again.read_file("/workspace/still")).data == b"here"
    await again.detach()


@pytest.mark.parametrize("after_s", [0.001, 0.02, 0.05, 0.1, 0.2, 0.3])
async def test_a_cancelled_create_leaves_nothing(engine: DockerBackend, host_image: str, after_s: float) -> None:
    wanted = spec(host_image)
    sandbox = None
    with anyio.move_on_after(after_s):
        sandbox = await engine.create(wanted)
    if sandbox is not None:  # a fast machine was done before
        await sandbox.close()
    await gone(engine, wanted.name)


async def test_a_missing_image_is_an_error_with_the_command_that_makes_it(engine: DockerBackend) -> None:
    wanted = spec("mlgym-light:no-such-tag")
    with pytest.raises(BackendUnavailableError, match="has no image"):
        await engine.create(wanted)
    assert await leftovers(engine, wanted.name) == []


async def test_an_engine_without_gpus_says_so_and_keeps_nothing(engine: DockerBackend, host_image: str) -> None:
    wanted = spec(host_image, gpus=("GPU-00000000-0000-0000-0000-000000000000",))
    with pytest.raises(BackendUnavailableError, match=r"NVIDIA|podman"):
        await engine.create(wanted)
    assert await leftovers(engine, wanted.name) == []


async def test_probe_makes_a_sandbox_and_removes_it(engine: DockerBackend, docker_home: Path) -> None:
    checks = await engine.probe()
    assert [check.name for check in checks][:3] == ["docker engine", "docker limits", "docker images"]
    assert checks[-1].name == "docker"
    assert checks[-1].ok or checks[-1].mend
    assert not [found for found in await engine.find({}) if found.name.startswith("probe-")]


async def test_an_absent_engine_is_said_in_one_sentence(tmp_path: Path) -> None:
    backend = DockerBackend(f"unix://{tmp_path}/none.sock")
    with pytest.raises(BackendUnavailableError, match=r"does not answer.*DOCKER_HOST"):
        await backend.create(spec("mlgym-light"))
    (check,) = await backend.probe()
    assert not check.ok
    assert check.mend


async def test_an_engine_that_hangs_is_given_up_on(tmp_path: Path) -> None:
    async def hang(stream: SocketStream) -> None:
        async with stream:
            await anyio.sleep_forever()

    listener = await anyio.create_unix_listener(tmp_path / "hung.sock")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, hang)
        with anyio.fail_after(10), pytest.raises(SandboxError, match="did not finish within"):
            await Engine(f"unix://{tmp_path}/hung.sock").call(lambda client: client.ping(), deadline_s=0.3)
        tasks.cancel_scope.cancel()


async def test_a_container_is_attached_to_through_ssh_as_through_a_socket(
    engine: DockerBackend, box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ssh` is played by a program that joins its stdin and stdout with the engine's socket."""
    fake = tmp_path / "ssh"
    fake.write_text(
        f"#!{sys.executable} -IS\n"
        "import os, select, socket\n"
        f"link = socket.socket(socket.AF_UNIX); link.connect({engine.engine.url.removeprefix('unix://')!r})\n"
        "while True:\n"
        "    for ready in select.select([0, link], [], [])[0]:\n"
        "        data = os.read(0, 65536) if ready == 0 else link.recv(65536)\n"
        "        if not data: raise SystemExit\n"
        "        link.sendall(data) if ready == 0 else os.write(1, data)\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    # The engine feeds all that are attached at the pace of the slowest: the first must go.
    await box.detach()
    stream = await attach(EngineAddress("ssh://somebody@elsewhere:2222"), f"mlgym-{box.name}")
    again = await Sandbox.connect(box.name, stream, box.magic, remove=anyio.lowlevel.checkpoint)
    await again.write_file("/workspace/f", b"x" * 3_000_000)
    assert len((await again.read_file("/workspace/f", limit=4_000_000)).data) == 3_000_000
    await again.detach()


async def test_an_engine_by_ssh_without_the_library_for_it_names_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("docker.api.client.SSHHTTPAdapter", raising=False)
    with pytest.raises(BackendUnavailableError, match=r"docker\[ssh\]"):
        await DockerBackend("ssh://somebody@elsewhere").create(spec("mlgym-light"))


@pytest.fixture
def private_engine(tmp_path: Path) -> Iterator[str]:
    """An engine that may be stopped, and believes that it can hand in GPUs."""
    if os.geteuid() != 0:
        missing("starting a private Docker engine needs root")
    (tmp_path / "nvidia-container-runtime-hook").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "nvidia-container-runtime-hook").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    started = subprocess.run(
        [ENGINE, "start"], capture_output=True, text=True, timeout=90, env=environment, check=False
    )
    if started.returncode == 2:
        missing(started.stderr.strip())
    assert started.returncode == 0, started.stderr
    host = started.stdout.strip()
    yield host
    subprocess.run([ENGINE, "stop", host], check=True, timeout=90)


async def test_an_engine_that_restarts_loses_its_sandboxes_and_says_so(private_engine: str, docker_home: Path) -> None:
    from mlgym_sandbox import images

    backend = DockerBackend(private_engine)
    await images.build("mlgym-bare", from_host=True, engine=backend.engine)
    wanted = spec("mlgym-bare", gpus=("GPU-1",))
    with pytest.raises(BackendUnavailableError, match="none is in the sandbox"):
        await backend.create(wanted)
    assert await leftovers(backend, wanted.name) == []

    sandbox = await backend.create(spec("mlgym-bare"))
    await sandbox.start("sleep 100")
    restart = [str(ENGINE), "restart", private_engine]
    with anyio.fail_after(60):
        await anyio.run_process(restart)
        with pytest.raises(SandboxLostError, match="engine"):
            await sandbox.ping()
        (found,) = await backend.find({})
        assert (found.name, found.running) == (sandbox.name, False)
        await sandbox.close()
    assert await leftovers(backend, sandbox.name) == []
