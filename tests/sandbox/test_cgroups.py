"""Kernel limits: finding the hierarchy, making, filling and removing groups, systemd's command line."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from mlgym_sandbox import cgroups
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.spec import Limits

HERE = cgroups.available()
needs_cgroups = pytest.mark.skipif(HERE is None, reason="this process may make no control groups")


def test_separate_controllers_are_found_even_beside_an_empty_unified_one(tmp_path: Path) -> None:
    for name in ("memory", "pids", "cpu,cpuacct", "unified"):
        (tmp_path / name).mkdir()
    mounts = (
        f"cgroup {tmp_path}/memory cgroup rw,relatime,memory 0 0\n"
        f"cgroup {tmp_path}/pids cgroup rw,relatime,pids 0 0\n"
        f"cgroup {tmp_path}/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n"
        f"cgroup2 {tmp_path}/unified cgroup2 rw 0 0\n"
    )
    found = cgroups.hierarchy(mounts)
    assert found is not None
    assert found.version == 1
    assert found.roots["cpu"] == tmp_path / "cpu,cpuacct"


def test_the_unified_hierarchy_is_found_when_it_has_the_controllers(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    found = cgroups.hierarchy(f"cgroup2 {tmp_path} cgroup2 rw,nosuid 0 0\n")
    assert found is not None
    assert found.version == 2
    assert set(found.roots.values()) == {tmp_path}


def test_no_hierarchy_without_all_controllers(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu io\n")
    assert cgroups.hierarchy(f"cgroup2 {tmp_path} cgroup2 rw 0 0\nproc /proc proc rw 0 0\n") is None


def test_unified_limits_are_written_as_the_kernel_wants_them(tmp_path: Path) -> None:
    # A plain folder stands in for a hierarchy: what is written where is what matters.
    (tmp_path / "cgroup.subtree_control").write_text("")
    (tmp_path / "mlgym").mkdir()
    (tmp_path / "mlgym" / "cgroup.subtree_control").write_text("")
    where = cgroups.Hierarchy(2, dict.fromkeys(("memory", "pids", "cpu"), tmp_path))
    group = cgroups.create("one", Limits(cpus=1.5, memory_mb=64, pids=10), where)
    made = tmp_path / "mlgym" / "one"
    assert group.entrances == (made / "cgroup.procs",)
    assert group.oom_counter == made / "memory.events"
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (made / "memory.max").read_text() == str(64 << 20)
    assert (made / "pids.max").read_text() == str(10 + cgroups.PIDS_HEADROOM)
    assert (made / "cpu.max").read_text() == "150000 100000"
    assert not (made / "memory.swap.max").exists()  # as on a kernel without swap accounting


def test_a_scope_carries_every_limit() -> None:
    command = cgroups.scope_command("s-1", Limits(cpus=1.5, memory_mb=64, pids=10))
    assert command[:3] == ["systemd-run", "--user", "--scope"]
    assert command[-1] == "--"
    assert {"MemoryMax=64M", "MemorySwapMax=0", "TasksMax=42", "CPUQuota=150%"} <= set(command)
    assert "--unit=mlgym-s-1" in command


@needs_cgroups
def test_memory_and_processes_are_limited_and_nothing_is_left() -> None:
    assert HERE is not None
    name = f"test-{secrets.token_hex(4)}"
    group = cgroups.create(name, Limits(memory_mb=64, pids=5), HERE)
    try:
        enter = f"import os,sys\nfor f in {[str(path) for path in group.entrances]!r}: open(f,'w').write('0')\n"
        hog = subprocess.run([sys.executable, "-c", enter + "x = b'1' * (256 << 20)"], timeout=60, check=False)
        assert hog.returncode == -9
        counted = next(line for line in group.oom_counter.read_text().splitlines() if line.startswith("oom_kill "))
        assert int(counted.split()[1]) >= 1
        forks = enter + "import time\nn = 0\ntry:\n  for _ in range(100):\n"
        forks += "    if os.fork() == 0: os.close(1); time.sleep(60)\n"
        forks += "    n += 1\nexcept BlockingIOError: print(n)\n"
        done = subprocess.run([sys.executable, "-c", forks], stdout=subprocess.PIPE, timeout=60, check=False)
        assert int(done.stdout) == 5 + cgroups.PIDS_HEADROOM - 1
    finally:
        cgroups.remove(name, HERE)
    assert not any(folder.exists() for folder in group.folders)
    cgroups.remove(name, HERE)  # gone already: no error


@needs_cgroups
def test_a_group_that_cannot_be_made_says_so_and_leaves_nothing() -> None:
    assert HERE is not None
    name = f"test-{secrets.token_hex(4)}"
    with pytest.raises(SandboxError, match=name):
        cgroups.create(name, Limits(pids=1 << 60), HERE)
    assert not any(folder.exists() for folder in cgroups.group(name, HERE).folders)


def test_probing_leaves_nothing() -> None:
    if HERE is not None:
        for root in HERE.roots.values():
            assert not list((root / cgroups.PARENT).glob(f"probe-{os.getpid()}-*"))
