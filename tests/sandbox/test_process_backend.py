"""The process backend: its warning, its life beyond the server, and what it leaves behind (nothing)."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from mlgym_sandbox import BackendUnavailableError, Sandbox, SandboxError, SandboxLostError, SandboxSpec, get_backend
from mlgym_sandbox.backends.local import LocalFolder
from mlgym_sandbox.backends.process import ProcessBackend
from mlgym_sandbox.processes import process_started
from tests.sandbox.conftest import run

pytestmark = pytest.mark.anyio


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessBackend]:
    """With a data folder of a path far too long for the address of a socket."""
    home = tmp_path / ("long-" * 20) / ("longer-" * 10)
    monkeypatch.setenv("MLGYM_HOME", str(home))
    yield ProcessBackend(unsafe=True)
    left = list((home / "run" / "process").iterdir()) if (home / "run" / "process").exists() else []
    assert left == []


def spec(name: str = "one", ttl_s: float = 60) -> SandboxSpec:
    return SandboxSpec(name, environment="bare", labels={"session": name}, ttl_s=ttl_s)


async def test_it_refuses_unless_told_that_it_isolates_nothing() -> None:
    with pytest.raises(BackendUnavailableError, match="unsafe"):
        get_backend("process")
    with pytest.raises(ValueError, match="docker, bubblewrap, process"):
        get_backend("chroot")
    assert (await get_backend("process", unsafe=True).probe())[-1].ok


async def test_what_it_remembers_is_for_its_owner_only(backend: ProcessBackend) -> None:
    async with await backend.create(spec()) as sandbox:
        folder = LocalFolder("process").path("one")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "state.json").stat().st_mode) == 0o600
        assert json.loads((folder / "state.json").read_text())["magic"] == sandbox.magic.hex()
        assert stat.S_IMODE((folder / "jobs").stat().st_mode) == 0o700


async def test_a_sandbox_survives_the_server_that_made_it(backend: ProcessBackend) -> None:
    program = """
import anyio, os, signal
from mlgym_sandbox import SandboxSpec, get_backend
async def main():
    spec = SandboxSpec("one", environment="bare", labels={"session": "one"})
    sandbox = await get_backend("process", unsafe=True).create(spec)
    job = await sandbox.start("while [ ! -e go ]; do sleep 0.02; done; echo survived")
    await sandbox.write_file("note", b"from the dead")
    print(job.id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
anyio.run(main)
"""
    with anyio.fail_after(30):
        dead = await anyio.run_process([sys.executable, "-c", program], check=False, stderr=None)
    assert dead.returncode == -signal.SIGKILL
    assert [(one.name, one.running) for one in await backend.find({"session": "one"})] == [("one", True)]
    sandbox = await backend.attach("one")
    try:
        await sandbox.write_file("go", b"")
        job = await sandbox.wait(dead.stdout.decode().strip(), 10)
        assert job.exit_code == 0
        assert (await sandbox.output(job.id)).data == b"survived\n"
        assert (await sandbox.read_file("note")).data == b"from the dead"
    finally:
        await sandbox.close()
    assert await backend.find({}) == []


async def test_removing_kills_everything_also_what_outlived_a_killed_runner(backend: ProcessBackend) -> None:
    sandbox = await backend.create(spec())
    job = await sandbox.start("sleep 60")
    _, output = await run(sandbox, "(trap '' TERM; setsid sleep 88 > /dev/null & echo $!); chmod 000 $HOME")
    record = LocalFolder("process").load("one")
    assert record is not None
    assert record.alive
    os.kill(record.pid, signal.SIGKILL)
    with anyio.fail_after(5), pytest.raises(SandboxLostError):
        await sandbox.wait(job.id, 60)
    with anyio.fail_after(5):  # a process closes its connections a moment before it is gone
        while [one.running for one in await backend.find({})] != [False]:
            await anyio.sleep(0.01)
    with pytest.raises(SandboxLostError, match="no running sandbox"):
        await backend.attach("one")
    assert process_started(int(output)) is not None
    await sandbox.close()
    assert process_started(int(output)) is None


async def test_a_name_is_taken_once(backend: ProcessBackend) -> None:
    async with await backend.create(spec()) as sandbox:
        with pytest.raises(SandboxError, match="already"):
            await backend.create(spec())
        assert await sandbox.ping() > 0


async def test_another_process_of_the_same_number_is_not_taken_for_the_runner(backend: ProcessBackend) -> None:
    async with await backend.create(spec()):
        folder = LocalFolder("process")
        record = folder.load("one")
        assert record is not None
        bystander = subprocess.Popen(["sleep", "60"])
        try:
            changed = json.loads((folder.path("one") / "state.json").read_text())
            changed["pid"] = bystander.pid  # as if the number had been used again
            (folder.path("one") / "state.json").write_text(json.dumps(changed))
            assert [one.running for one in await backend.find({})] == [False]
            folder.save(record)
        finally:
            assert bystander.poll() is None
            bystander.kill()
            bystander.wait()


async def test_a_cancelled_create_leaves_nothing(backend: ProcessBackend) -> None:
    for delay in (0.001, 0.01, 0.03):
        with anyio.move_on_after(delay):
            sandbox = await backend.create(spec())
            await sandbox.close()
        assert await backend.find({}) == []


async def test_a_wrong_secret_is_not_answered(backend: ProcessBackend) -> None:
    async with await backend.create(spec()) as sandbox:
        folder = LocalFolder("process")

        async def remove() -> None:
            raise AssertionError

        with pytest.raises(SandboxLostError):
            await Sandbox.connect("one", await folder.connect("one"), bytes(32), remove=remove, timeout_s=5)
        silent = await folder.connect("one")
        assert await sandbox.ping() > 0
        await silent.aclose()
        assert await sandbox.ping() > 0


async def test_a_workspace_over_its_limit_can_still_be_cleared(backend: ProcessBackend) -> None:
    from mlgym_sandbox import Limits

    small = SandboxSpec("one", environment="bare", limits=Limits(storage_mb=4))
    async with await backend.create(small) as sandbox:
        with anyio.fail_after(20):
            status, _ = await run(sandbox, "head -c 20M /dev/zero > big; sleep 15", wait_s=15)
        assert (status.state, status.reason) == ("killed", "disk")
        with pytest.raises(SandboxError, match="no space is left"):
            await sandbox.write_file("more", b"x")
        with anyio.fail_after(20):
            # It holds too much but does not grow: it may run and clear up.
            assert (await run(sandbox, "sleep 2.5; rm big; echo cleared"))[1] == "cleared\n"
            while True:
                try:
                    await sandbox.write_file("more", b"x")
                    break
                except SandboxError:
                    await sandbox.usage()
                    await anyio.sleep(0.1)
