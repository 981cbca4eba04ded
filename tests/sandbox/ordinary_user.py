"""Run by test_bubblewrap.py as an ordinary user: makes a sandbox, attacks it, prints what came of it as JSON."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import anyio

from mlgym_sandbox.backends import bubblewrap_state
from mlgym_sandbox.backends.bubblewrap import BubblewrapBackend
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.spec import Limits, SandboxSpec


def programs() -> SimpleNamespace:
    """The attack programs of the test module, without importing pytest."""
    text = Path(__file__).with_name("test_bubblewrap.py").read_text()
    cut = {name: text.split(f'\n{name} = """')[1].split('"""')[0] for name in ("ESCAPES", "RUNNER")}
    return SimpleNamespace(**cut)


async def main() -> None:
    assert importlib.util.find_spec("mlgym_sandbox") is not None
    attacks = programs()
    backend = BubblewrapBackend()
    found: dict[str, object] = dict(await backend.enforcement())
    limits = Limits(cpus=1, memory_mb=256, pids=64, storage_mb=32, tmp_mb=16)
    sandbox = await backend.create(SandboxSpec("ordinary", environment="bare", limits=limits, labels={"a": "b"}))
    try:
        for key, program in (("escapes", attacks.ESCAPES), ("runner", attacks.RUNNER)):
            _, output = await sandbox.run(["python", "-c", program], wait_s=30)
            found[key] = output.data.decode()
        await sandbox.ping()
        bomb = "import os,time\nfor _ in range(10000):\n try:\n  os.fork() or time.sleep(99)\n except OSError: pass"
        await sandbox.run(["python", "-c", bomb], wait_s=20)
        found["processes"] = (await sandbox.usage()).processes
        await sandbox.kill_all()
        with anyio.fail_after(20):  # with one uid for all, the dead count against the runner until it has reaped them
            while True:
                try:
                    hog, _ = await sandbox.run(["python", "-c", "x = bytearray(1 << 30)"], wait_s=30)
                    break
                except SandboxError:
                    await anyio.sleep(0.02)
        found["hog"] = hog.exit_code
        disk, output = await sandbox.run("head -c 200M /dev/zero > big; echo rc=$?", wait_s=30)
        assert disk.reason == "disk" or b"rc=0" not in output.data, output
        await sandbox.run("rm -f big; echo kept > note; mkdir -p deep/er; chmod 0 deep/er deep", wait_s=10)
        await sandbox.detach()
        sandbox = await backend.attach("ordinary")
        found["attached"] = (await sandbox.run("cat note", wait_s=10))[1].data.decode()
        found["well"] = (await sandbox.run("echo well", wait_s=10))[1].data.decode()
        found["alive"] = (await backend.find({"a": "b"}))[0].running
    finally:
        await sandbox.close()
    found["left"] = os.listdir(bubblewrap_state.root())
    print(json.dumps(found))
    sys.stdout.flush()


anyio.run(main)
