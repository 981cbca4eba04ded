"""GPUs without a GPU: what the tools and the kernel say of them, and who gets which."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mlgym_sandbox import gpus
from mlgym_sandbox.cdi import cdi_devices
from mlgym_sandbox.errors import BackendUnavailableError, SandboxError
from mlgym_sandbox.gpu_allotment import Allotment, Request
from mlgym_sandbox.gpu_leases import Leases
from mlgym_sandbox.gpus import Gpu, Inventory, discover, read_smi

LARGE, SMALL, SLICE = 81559, 15360, 4864
MACHINE = Inventory(
    (
        Gpu("GPU-a", "NVIDIA H100", LARGE, 0),
        Gpu("GPU-b", "NVIDIA H100", LARGE, 1),
        Gpu("GPU-c", "Tesla T4", SMALL, 2),
        Gpu("MIG-d", "NVIDIA A100 1g.5gb", SLICE, 3, part_of="GPU-d"),
        Gpu("MIG-e", "NVIDIA A100 1g.5gb", SLICE, 3, part_of="GPU-d"),
    ),
    "a test",
)
NOTHING = Inventory(problem="this machine has no GPU that can be seen; install its driver")

QUERY = """\
GPU-11111111-aaaa-bbbb-cccc-000000000001, NVIDIA A100-SXM4-40GB, 40960, Enabled
GPU-11111111-aaaa-bbbb-cccc-000000000002, NVIDIA A100-SXM4-40GB, 40960, Disabled
GPU-11111111-aaaa-bbbb-cccc-000000000003, Tesla T4, 15360, [N/A]
"""
LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-11111111-aaaa-bbbb-cccc-000000000001)
  MIG 3g.20gb     Device  0: (UUID: MIG-aaaaaaaa-0000-5000-8000-000000000001)
  MIG 1g.5gb+me   Device  1: (UUID: MIG-GPU-11111111-aaaa-bbbb-cccc-000000000001/13/0)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-11111111-aaaa-bbbb-cccc-000000000002)
GPU 2: Tesla T4 (UUID: GPU-11111111-aaaa-bbbb-cccc-000000000003)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def fake_smi(folder: Path, query: str = QUERY, listing: str = LISTING, code: int = 0) -> Mapping[str, str]:
    folder.mkdir()
    write(folder / "query", query)
    write(folder / "listing", listing)
    script = f'#!/bin/sh\ncase "$1" in -L) cat {folder}/listing;; *) cat {folder}/query;; esac\nexit {code}\n'
    write(folder / "nvidia-smi", script)
    (folder / "nvidia-smi").chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


# ---------------------------------------------------------------------- what is there


def test_a_machine_without_gpus_says_what_is_missing(root: Path, no_nvml: None, tmp_path: Path) -> None:
    found = discover({"PATH": str(tmp_path)}, root=root)
    assert found.gpus == ()
    assert "no GPU" in str(found.problem)


def test_nvidia_smi_tells_devices_and_the_slices_of_those_cut_up(root: Path, no_nvml: None, tmp_path: Path) -> None:
    for minor, number in ((5, 2), (7, 3)):
        write(
            root / f"proc/driver/nvidia/gpus/0000:0{minor}:00.0/information",
            f"Model: \t\t X\nGPU UUID: \t GPU-11111111-aaaa-bbbb-cccc-00000000000{number}\nDevice Minor: \t {minor}\n",
        )
    found = discover(fake_smi(tmp_path / "smi"), root=root)
    assert found.source == "nvidia-smi"
    first, second, third, fourth = found.gpus
    assert first == Gpu(
        "MIG-aaaaaaaa-0000-5000-8000-000000000001",
        "NVIDIA A100-SXM4-40GB 3g.20gb",
        19073,
        0,
        part_of="GPU-11111111-aaaa-bbbb-cccc-000000000001",
    )
    assert (second.id, second.memory_mb) == ("MIG-GPU-11111111-aaaa-bbbb-cccc-000000000001/13/0", 4768)
    assert (third.number, third.nodes, third.memory_mb) == (1, ("/dev/nvidia5",), 40960)
    assert (fourth.name, fourth.nodes, fourth.part_of) == ("Tesla T4", ("/dev/nvidia7",), None)
    assert fourth.memory_gb == pytest.approx(16.1, abs=0.1)  # sold as 16 GB, and taken as that


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", 9),
        ("No devices were found\n", 0),
        ("GPU-1, Tesla T4, [Unknown Error], [N/A]\n", 0),
        ("", 255),
    ],
)
def test_a_driver_that_does_not_work_is_no_gpu_and_the_reason_is_told(
    root: Path, no_nvml: None, tmp_path: Path, query: str, code: int
) -> None:
    found = discover(fake_smi(tmp_path / "smi", query, "", code), root=root)
    assert found.gpus == ()
    assert "driver" in str(found.problem)


@pytest.mark.parametrize(
    ("allowed", "numbers"),
    [
        ("all", [0, 0, 1, 2]),
        ("", [0, 0, 1, 2]),
        ("0", [0, 0]),
        ("GPU-11111111-aaaa-bbbb-cccc-000000000001, 2", [0, 0, 2]),
        ("MIG-aaaaaaaa-0000-5000-8000-000000000001", [0]),
        ("none", []),
        ("17", []),
    ],
)
def test_the_operator_says_which_gpus_sandboxes_may_have(
    root: Path, no_nvml: None, tmp_path: Path, allowed: str, numbers: list[int]
) -> None:
    found = discover({**fake_smi(tmp_path / "smi"), "MLGYM_GPUS": allowed}, root=root)
    assert [gpu.number for gpu in found.gpus] == numbers
    assert numbers or "MLGYM_GPUS" in str(found.problem)


def fake_nvml(*, init_fails: bool = False) -> Any:
    """Two devices, the first cut into one slice, and a third that has fallen off the bus."""

    class NVMLError(Exception):
        pass

    def fail() -> None:
        raise NVMLError("Driver Not Loaded")

    def handle(number: int) -> str:
        if number == 2:
            raise NVMLError("GPU is lost")
        return f"device{number}"

    def part(device: str, place: int) -> str:
        if place != 1:
            raise NVMLError("Not Found")
        return "part"

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=fail if init_fails else lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetUUID=lambda h: {"device0": "GPU-0", "device1": b"GPU-1", "part": "MIG-0"}[h],
        nvmlDeviceGetName=lambda h: f"name of {h}",
        nvmlDeviceGetMinorNumber=lambda h: {"device0": 4, "device1": 1}[h],
        nvmlDeviceGetMigMode=lambda h: (int(h == "device0"), 0),
        nvmlDeviceGetMemoryInfo=lambda h: SimpleNamespace(total={"part": SLICE, "device1": LARGE}[h] << 20),
        nvmlDeviceGetMaxMigDeviceCount=lambda h: 7,
        nvmlDeviceGetMigDeviceHandleByIndex=part,
        nvmlDeviceGetGpuInstanceId=lambda h: 7,
        nvmlDeviceGetComputeInstanceId=lambda h: 0,
    )


def test_nvml_tells_the_nodes_of_slices_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    write(root / "proc/driver/nvidia-caps/mig-minors", "config 1\ngpu4/gi7/access 66\ngpu4/gi7/ci0/access 67\n")
    found = discover({}, root=root)
    caps = ("/dev/nvidia-caps/nvidia-cap66", "/dev/nvidia-caps/nvidia-cap67")
    assert found == Inventory(
        (
            Gpu("MIG-0", "name of part", SLICE, 0, part_of="GPU-0", nodes=("/dev/nvidia4", *caps)),
            Gpu("GPU-1", "name of device1", LARGE, 1, nodes=("/dev/nvidia1",)),
        ),
        "NVML",
    )


def test_nvml_without_a_driver_gives_its_own_reason(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(init_fails=True))
    found = discover({"PATH": str(tmp_path)}, root=root)
    assert found.gpus == ()
    assert "Driver Not Loaded" in str(found.problem)


def test_amd_devices_are_read_from_the_kernel(root: Path, no_nvml: None, tmp_path: Path) -> None:
    nodes = root / "sys/class/kfd/kfd/topology/nodes"
    for number, simd, minor in ((0, 0, 0), (1, 1216, 128), (10, 1216, 129), (2, 1216, 777)):
        write(nodes / f"{number}/properties", f"cpu_cores_count 0\nsimd_count {simd}\ndrm_render_minor {minor}\n")
        write(nodes / f"{number}/name", "gfx90a\n")
    for minor in (128, 129):
        write(root / f"sys/class/drm/renderD{minor}/device/mem_info_vram_total", f"{64 << 30}\n")
    found = discover({"PATH": str(tmp_path)}, root=root)
    assert found.source == "kfd"
    assert found.gpus == tuple(
        Gpu(f"renderD{minor}", "AMD gfx90a", 64 << 10, number, nodes=("/dev/kfd", f"/dev/dri/renderD{minor}"))
        for number, minor in enumerate((128, 129))
    )
    assert not found.gpus[0].nvidia


def test_cdi_names_are_read_from_json_and_from_yaml_as_it_is_generated(tmp_path: Path) -> None:
    write(
        tmp_path / "nvidia.yaml",
        "---\ncdiVersion: 0.5.0\ncontainerEdits:\n  env:\n  - name: NOT-THIS\ndevices:\n"
        '- containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia0\n      name: NOR-THIS\n  name: "0"\n'
        "- name: GPU-1\n  containerEdits:\n    deviceNodes: []\nkind: nvidia.com/gpu\n",
    )
    write(tmp_path / "amd.json", json.dumps({"kind": "amd.com/gpu", "devices": [{"name": "0"}]}))
    write(tmp_path / "broken.json", '{"kind": 3')
    write(tmp_path / "strange.json", '{"kind": "x/y", "devices": 4}')
    write(tmp_path / "notes.txt", "kind: a/b\ndevices:\n- name: c\n")
    assert cdi_devices([tmp_path, tmp_path / "none"]) == {"nvidia.com/gpu=0", "nvidia.com/gpu=GPU-1", "amd.com/gpu=0"}


def test_hostile_answers_of_a_tool_are_no_gpus() -> None:
    assert read_smi("GPU-1\nGPU-2,x\n\x00, , ,\nGPU-3, T4, -5, x\n", "MIG (UUID:", {}) == ()


# ---------------------------------------------------------------------- who gets what


class Allotting(RuleBasedStateMachine):
    """Any order of asking, granting, leaving, and of others coming and going with GPUs of this machine."""

    def __init__(self) -> None:
        super().__init__()
        self.allotment = Allotment(MACHINE)
        self.names = 0
        self.waiting: list[Request] = []
        self.having: list[Request] = []
        self.elsewhere: frozenset[str] = frozenset()

    @rule(count=st.integers(1, 3), memory=st.sampled_from([0.0, 5.0, 16.0, 80.0, 200.0]))
    def ask(self, count: int, memory: float) -> None:
        self.names += 1
        fitting = [gpu for gpu in MACHINE.gpus if gpu.memory_gb >= memory and (count == 1 or gpu.part_of is None)]
        if len(fitting) < count:
            with pytest.raises(BackendUnavailableError):
                self.allotment.ask(f"s{self.names}", count, memory)
            return
        request = self.allotment.ask(f"s{self.names}", count, memory)
        with pytest.raises(ValueError, match="already"):
            self.allotment.ask(request.owner, 1)
        self.waiting.append(request)

    @rule(elsewhere=st.frozensets(st.sampled_from([gpu.id for gpu in MACHINE.gpus])))
    def others_come_and_go(self, elsewhere: frozenset[str]) -> None:
        self.elsewhere = elsewhere

    @rule()
    def grant(self) -> None:
        before = dict(self.allotment.owners)
        granted = self.allotment.grant(self.elsewhere)
        for request in granted:
            assert len(request.gpus) == request.count  # all or nothing
            ids = {gpu.id for gpu in request.gpus}
            assert len(ids) == request.count
            assert not ids & before.keys()
            assert not ids & self.elsewhere
            assert all(gpu.memory_gb >= request.memory_gb for gpu in request.gpus)
            assert request.count == 1 or all(gpu.part_of is None for gpu in request.gpus)
            # Nobody who came earlier and still waits could have used any of it.
            for earlier in self.waiting[: self.waiting.index(request)]:
                if not earlier.gpus:
                    useful = {gpu.id for gpu in self.allotment.fitting(earlier.count, earlier.memory_gb)}
                    assert not ids & useful
        self.waiting = [request for request in self.waiting if not request.gpus]
        self.having += granted
        # The first in the queue is never passed over while there is enough for it.
        if self.waiting:
            first = self.waiting[0]
            usable = {gpu.id for gpu in self.allotment.fitting(first.count, first.memory_gb)}
            assert len(usable - self.allotment.owners.keys() - self.elsewhere) < first.count

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.waiting))
        self.allotment.withdraw(request)
        self.waiting.remove(request)

    @precondition(lambda self: self.having)
    @rule(data=st.data(), by_withdrawing=st.booleans())
    def give_back(self, data: st.DataObject, by_withdrawing: bool) -> None:
        request = data.draw(st.sampled_from(self.having))
        if by_withdrawing:
            self.allotment.withdraw(request)
        else:
            assert self.allotment.release(request.owner) == {gpu.id for gpu in request.gpus}
        assert self.allotment.release(request.owner) == frozenset()
        self.having.remove(request)

    @invariant()
    def each_gpu_has_at_most_one_owner(self) -> None:
        expected = {gpu.id: request.owner for request in self.having for gpu in request.gpus}
        assert len(expected) == sum(request.count for request in self.having)
        assert self.allotment.owners == expected

    @invariant()
    def the_queue_is_in_the_order_of_asking(self) -> None:
        assert [request.owner for request in self.allotment.queue] == [request.owner for request in self.waiting]
        assert [self.allotment.place(request) for request in self.waiting] == list(range(1, len(self.waiting) + 1))
        assert all(self.allotment.place(request) == 0 for request in self.having)


TestAllotting = Allotting.TestCase


def test_the_smallest_that_fits_is_given() -> None:
    allotment = Allotment(MACHINE)
    for owner, memory, expected in (("a", 16, "GPU-c"), ("b", 0, "MIG-d"), ("c", 17, "GPU-a")):
        request = allotment.ask(owner, 1, memory)
        allotment.grant()
        assert [gpu.id for gpu in request.gpus] == [expected]


def test_many_are_not_starved_by_few() -> None:
    allotment = Allotment(MACHINE)
    allotment.ask("holder", 1, 80)
    allotment.grant()
    two = allotment.ask("two", 2, 80)
    one = allotment.ask("one", 1, 80)
    slice_ = allotment.ask("slice", 1, 0)
    granted = allotment.grant()
    assert granted == [slice_]  # it takes nothing that those before it could use
    allotment.release("holder")
    assert allotment.grant() == [two]
    assert one.gpus == ()


@pytest.mark.parametrize("count", [0, -1])
def test_a_number_of_gpus_that_makes_no_sense_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        Allotment(MACHINE).ask("a", count)


@pytest.mark.parametrize(
    ("inventory", "count", "memory", "words"),
    [
        (NOTHING, 1, 0.0, "a GPU is needed, but this machine has no GPU"),
        (MACHINE, 4, 0.0, "4 GPUs are needed, but this machine has only NVIDIA H100"),
        (MACHINE, 1, 200.0, "a GPU with at least 200 GB is needed"),
        (MACHINE, 3, 80.0, "3 GPUs with at least 80 GB each are needed"),
    ],
)
def test_what_can_never_be_had_is_said_at_once(inventory: Inventory, count: int, memory: float, words: str) -> None:
    with pytest.raises(BackendUnavailableError, match=words) as caught:
        Allotment(inventory).ask("a", count, memory)
    assert "\n" not in str(caught.value)


def test_what_a_living_sandbox_holds_is_not_given_to_another() -> None:
    allotment = Allotment(MACHINE)
    allotment.hold("old", ["GPU-a", "GPU-gone"])
    with pytest.raises(ValueError, match="belongs to old"):
        allotment.hold("new", ["GPU-b", "GPU-a"])
    request = allotment.ask("new", 2, 80)
    assert allotment.grant() == []
    allotment.release("old")
    assert allotment.grant() == [request]


# ---------------------------------------------------------------------- waiting for it


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    folder = tmp_path / "locks"
    folder.mkdir()
    return folder


ONE = Inventory((Gpu("GPU-a", "NVIDIA H100", LARGE),), "a test")


def leases(locks: Path, inventory: Inventory = ONE, **options: Any) -> Leases:
    async def look() -> Inventory:
        await anyio.lowlevel.checkpoint()
        return inventory

    return Leases(look, folder=locks, **{"look_again_s": 0.02, **options})


@pytest.mark.anyio
async def test_those_who_wait_are_told_their_place_and_served_in_order(locks: Path) -> None:
    here = leases(locks)
    await here.acquire("s0", 1, timeout_s=1)
    places: list[tuple[str, int]] = []
    served: list[str] = []

    async def session(name: str) -> None:
        await here.acquire(name, 1, timeout_s=30, waiting=lambda place: places.append((name, place)))
        served.append(name)

    async with anyio.create_task_group() as tasks:
        for number in (1, 2, 3):
            tasks.start_soon(session, f"s{number}")
            while len(places) < number:
                await anyio.sleep(0.001)
        assert places == [("s1", 1), ("s2", 2), ("s3", 3)]
        for number in (0, 1, 2):
            assert here.owners == {"GPU-a": f"s{number}"}
            here.release(f"s{number}")
            while len(served) == number:
                await anyio.sleep(0.001)
    assert served == ["s1", "s2", "s3"]
    assert [place for name, place in places if name == "s3"] == [3, 2, 1]


@pytest.mark.anyio
async def test_who_waits_too_long_is_told_and_leaves_the_queue(locks: Path) -> None:
    here = leases(locks)
    await here.acquire("s0", 1, timeout_s=1)
    with pytest.raises(SandboxError, match=r"no GPU became free within 0\.1 s \(last at place 1"):
        await here.acquire("s1", 1, timeout_s=0.1)
    assert (here.waiting, here.owners) == (0, {"GPU-a": "s0"})


@pytest.mark.anyio
async def test_a_cancelled_wait_and_a_cancelled_grant_leave_nothing(locks: Path) -> None:
    here = leases(locks)
    for steps in range(12):  # cancelled after any number of steps, waiting or just granted
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def cancel(steps: int = steps, scope: anyio.CancelScope = scope) -> None:
                    for _ in range(steps):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()

                tasks.start_soon(cancel)
                await here.acquire(f"s{steps}", 1, timeout_s=30)
                await anyio.lowlevel.checkpoint()
        here.release(f"s{steps}")
        assert (here.waiting, here.owners) == (0, {})
    await here.acquire("last", 1, timeout_s=1)


@pytest.mark.anyio
async def test_two_servers_never_lend_the_same_gpu(locks: Path) -> None:
    one, other = leases(locks), leases(locks)
    await one.acquire("s1", 1, timeout_s=1)
    with pytest.raises(SandboxError, match="became free"):
        await other.acquire("s2", 1, timeout_s=0.1)
    one.release("s1")
    assert [gpu.id for gpu in await other.acquire("s2", 1, timeout_s=5)] == ["GPU-a"]


HOLDER = """
import sys, anyio
from pathlib import Path
from mlgym_sandbox.gpu_leases import Leases
from mlgym_sandbox.gpus import Gpu, Inventory

async def look():
    return Inventory((Gpu("GPU-a", "x", 81559),))

async def main():
    here = Leases(look, folder=Path(sys.argv[1]))
    await here.acquire("theirs", 1, timeout_s=5)
    print("held", flush=True)
    await anyio.sleep(60)

anyio.run(main)
"""


@pytest.mark.anyio
async def test_the_lease_of_a_killed_server_ends_when_its_sandbox_does(locks: Path) -> None:
    alive = {"GPU-a": "theirs"}

    async def in_use() -> Mapping[str, str]:
        await anyio.lowlevel.checkpoint()
        return dict(alive)

    command = [sys.executable, "-c", HOLDER, str(locks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ}) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"held\n"
        here = leases(locks, in_use=in_use)
        with pytest.raises(SandboxError, match="became free"):
            await here.acquire("mine", 1, timeout_s=0.1)
        with pytest.raises(SandboxError, match="held by another server"):
            await here.adopt("theirs", "GPU-a")
        server.send_signal(signal.SIGKILL)
        server.wait(10)
    with pytest.raises(SandboxError, match="became free"):  # the server is dead, but its sandbox lives
        await here.acquire("mine", 1, timeout_s=0.1)
    assert await here.adopt("theirs", "GPU-a") == ("GPU-a",)
    assert here.owners == {"GPU-a": "theirs"}
    here.release("theirs")
    alive.clear()
    assert [gpu.id for gpu in await here.acquire("mine", 1, timeout_s=5)] == ["GPU-a"]


@pytest.mark.anyio
async def test_a_lease_is_taken_over_whole_or_not_at_all(locks: Path) -> None:
    here = leases(locks, MACHINE)
    await here.acquire("s1", 1, 80, timeout_s=1)
    with pytest.raises(SandboxError, match="belongs to s1"):
        await here.adopt("old", "GPU-b,GPU-a")
    assert here.owners == {"GPU-a": "s1"}
    assert await here.adopt("old", "") == ()
    assert await here.adopt("old", "GPU-b,GPU-c") == ("GPU-b", "GPU-c")
    assert here.owners == {"GPU-a": "s1", "GPU-b": "old", "GPU-c": "old"}


@pytest.mark.anyio
async def test_more_than_the_machine_has_fails_at_once(locks: Path) -> None:
    with anyio.fail_after(5), pytest.raises(BackendUnavailableError, match="needed"):
        await leases(locks).acquire("s1", 2, timeout_s=600)
    with pytest.raises(BackendUnavailableError, match="mini"):
        await leases(locks, NOTHING).check(1)


def test_the_devices_of_this_machine_can_be_looked_at_whatever_they_are() -> None:
    found = gpus.discover()
    assert found.gpus or found.problem
