"""How leased GPUs reach a sandbox: what an engine records of the request, what bubblewrap shows. Needs no GPU."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import pytest

from mlgym_sandbox.backends import bubblewrap_gpus, docker_gpus
from mlgym_sandbox.backends.bubblewrap import BubblewrapBackend
from mlgym_sandbox.backends.bubblewrap_view import command_environment, lay_out
from mlgym_sandbox.backends.docker import DockerBackend
from mlgym_sandbox.backends.docker_container import Plan, container_options, share_memory
from mlgym_sandbox.backends.docker_engine import Engine
from mlgym_sandbox.environment import Environment
from mlgym_sandbox.errors import BackendUnavailableError
from mlgym_sandbox.gpus import Gpu, Inventory
from mlgym_sandbox.identities import SINGLE
from mlgym_sandbox.spec import Limits, SandboxSpec
from tests.sandbox.conftest import run
from tests.sandbox.engine import missing

pytestmark = pytest.mark.anyio

LIMITS = Limits(cpus=1, memory_mb=256, pids=48, storage_mb=16, tmp_mb=16, output_mb=1)
UUIDS = ("GPU-aaaaaaaa-0000-0000-0000-000000000001", "MIG-bbbbbbbb-0000-0000-0000-000000000002")
CDI = frozenset(f"nvidia.com/gpu={uuid}" for uuid in UUIDS)


def spec(image: str = "", **changes: Any) -> SandboxSpec:
    return SandboxSpec(**{"name": f"test-{secrets.token_hex(4)}", "image": image, "limits": LIMITS, **changes})


# ---------------------------------------------------------------------- docker


async def recorded(engine: DockerBackend, wanted: SandboxSpec, **said: Any) -> dict[str, Any]:
    """Make the container, without starting it, and return what the engine says of it."""
    plan = Plan(wanted, share_memory(LIMITS), f"{wanted.name}-volume", {}, (), {"MLGYM_RUNNER": "{}"}, "", 1.0, **said)

    def work(client: docker.APIClient) -> dict[str, Any]:
        made = client.create_container(name=wanted.name, **container_options(client, plan))["Id"]
        try:
            return dict(client.inspect_container(made))
        finally:
            client.remove_container(made, force=True, v=True)
            client.remove_volume(plan.workspace)

    return await engine.engine.call(work)


def variables(about: dict[str, Any]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in about["Config"]["Env"])


@pytest.mark.docker
async def test_an_engine_records_a_request_for_exactly_the_leased_devices(
    engine: DockerBackend, host_image: str
) -> None:
    about = await recorded(engine, spec(host_image, gpus=UUIDS), runtimes=frozenset({"nvidia", "runc"}), cdi=CDI)
    (request,) = about["HostConfig"]["DeviceRequests"]
    assert request["DeviceIDs"] == list(UUIDS)
    assert request["Count"] == 0  # a count would be the first devices, whoever has them
    assert request["Capabilities"] == [["gpu", "utility", "compute"]]
    assert request["Driver"] == ""
    assert "NVIDIA_VISIBLE_DEVICES" not in variables(about)


@pytest.mark.docker
async def test_where_only_cdi_knows_the_devices_they_go_by_their_cdi_names(
    engine: DockerBackend, host_image: str
) -> None:
    about = await recorded(engine, spec(host_image, gpus=UUIDS), runtimes=frozenset({"runc"}), cdi=CDI)
    (request,) = about["HostConfig"]["DeviceRequests"]
    assert (request["Driver"], request["DeviceIDs"]) == ("cdi", [f"nvidia.com/gpu={uuid}" for uuid in UUIDS])


@pytest.mark.docker
async def test_amd_devices_are_nodes_and_a_sandbox_without_gpus_gets_none(
    engine: DockerBackend, host_image: str
) -> None:
    about = await recorded(engine, spec(host_image, gpus=("renderD129",)))
    assert [device["PathOnHost"] for device in about["HostConfig"]["Devices"]] == ["/dev/kfd", "/dev/dri/renderD129"]
    about = await recorded(engine, spec(host_image))
    assert not about["HostConfig"]["Devices"]
    assert not about["HostConfig"]["DeviceRequests"]
    assert variables(about)["NVIDIA_VISIBLE_DEVICES"] == "void"


@pytest.mark.docker
@pytest.mark.parametrize(
    ("gpus", "words"),
    [(UUIDS[:1], "NVIDIA Container Toolkit"), (("renderD129",), "amdgpu driver")],
    ids=["nvidia", "amd"],
)
async def test_an_engine_that_cannot_hand_them_in_says_what_mends_it(
    engine: DockerBackend, host_image: str, gpus: tuple[str, ...], words: str
) -> None:
    if Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists():
        missing("this machine has GPUs")
    wanted = spec(host_image, gpus=gpus)
    with pytest.raises(BackendUnavailableError, match=words) as caught:
        await engine.create(wanted)
    assert "\n" not in str(caught.value)
    assert [found for found in await engine.find({}) if found.name == wanted.name] == []


@pytest.mark.docker
async def test_the_gpus_of_an_engine_elsewhere_are_looked_at_from_a_container(
    engine: DockerBackend, host_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = DockerBackend(environ={"DOCKER_HOST": engine.engine.url})
    monkeypatch.setattr(Engine, "address", SimpleNamespace(local=False))
    monkeypatch.setattr(Engine, "_connect", lambda self: self._make())
    found = await docker_gpus.inventory(elsewhere, host_image)
    assert found.gpus == ()
    assert "NVIDIA Container Toolkit" in str(found.problem)
    left = await engine.engine.call(lambda client: client.containers(all=True, filters={"label": "mlgym.role=ask"}))
    assert left == []


class Inside:
    """A sandbox in which these device nodes are."""

    def __init__(self, nodes: str, code: int = 0) -> None:
        self.nodes, self.code = nodes, code

    async def run(self, command: str, **_: Any) -> tuple[Any, Any]:
        return SimpleNamespace(exit_code=self.code), SimpleNamespace(data=self.nodes.encode())


CONTROL = "/dev/nvidiactl\n/dev/nvidia-uvm\n"


@pytest.mark.parametrize(
    ("gpus", "nodes", "words"),
    [
        (("GPU-a",), CONTROL + "/dev/nvidia3\n", None),
        (("GPU-a", "GPU-b"), CONTROL + "/dev/nvidia0\n/dev/nvidia3\n", None),
        (("MIG-a", "MIG-b"), CONTROL + "/dev/nvidia0\n", None),
        (("GPU-a",), "/dev/dxg\n", None),
        (("GPU-a",), "", "none is in the sandbox"),
        (("GPU-a",), CONTROL + "/dev/nvidia0\n/dev/nvidia1\n", "asked for 1"),
        (("GPU-a", "GPU-b"), CONTROL + "/dev/nvidia0\n", "asked for 2"),
    ],
)
async def test_more_or_fewer_devices_than_leased_are_noticed(
    gpus: tuple[str, ...], nodes: str, words: str | None
) -> None:
    sandbox: Any = Inside(nodes)
    if words is None:
        await docker_gpus.check(sandbox, gpus)
        return
    with pytest.raises(BackendUnavailableError, match=words):
        await docker_gpus.check(sandbox, gpus)


async def test_amd_nodes_that_commands_may_not_open_are_noticed() -> None:
    closed: Any = Inside("", code=1)
    with pytest.raises(BackendUnavailableError, match="udev"):
        await docker_gpus.check(closed, ["renderD128"])


async def test_what_newer_and_older_engines_say_of_cdi_is_understood(tmp_path: Path) -> None:
    (tmp_path / "nvidia.json").write_text('{"kind": "nvidia.com/gpu", "devices": [{"name": "GPU-1"}]}')
    for said, expected in (
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=GPU-2"}]}, {"nvidia.com/gpu=GPU-2"}),
        ({"DiscoveredDevices": [], "CDISpecDirs": [str(tmp_path)]}, frozenset()),
        ({"CDISpecDirs": [str(tmp_path)]}, {"nvidia.com/gpu=GPU-1"}),
        ({"CDISpecDirs": None}, None),
        ({}, None),
    ):
        engine = Engine("unix:///nowhere.sock")

        async def call(do: Any, said: dict[str, Any] = said) -> Any:
            return said

        engine.call = call  # type: ignore[method-assign]
        assert (await engine.info()).cdi == expected


# ---------------------------------------------------------------------- bubblewrap


@pytest.fixture
def nodes(tmp_path: Path) -> dict[str, str]:
    """Files in place of device nodes: two devices, and what all share."""
    made = {}
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        path = tmp_path / "dev" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        path.chmod(0o666)
        made[name] = str(path)
    return made


def machine(nodes: dict[str, str]) -> list[Gpu]:
    return [
        Gpu("GPU-0", "one", 8000, 0, nodes=(nodes["nvidia0"],)),
        Gpu("GPU-1", "other", 8000, 1, nodes=(nodes["nvidia1"],)),
        Gpu("MIG-2", "slice", 4000, 2, part_of="GPU-2"),
    ]


async def test_bubblewrap_is_told_to_show_the_leased_devices_only(
    nodes: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bubblewrap_gpus, "CONTROL", (nodes["nvidiactl"], nodes["nvidia-uvm"], "/no/such/node"))
    shown = bubblewrap_gpus.nodes(["GPU-1"], machine(nodes))
    assert shown == (nodes["nvidia1"], nodes["nvidiactl"], nodes["nvidia-uvm"])
    assert bubblewrap_gpus.nodes([]) == ()
    wanted = spec(gpus=("GPU-1",))
    environment = Environment("bare", tmp_path, tmp_path / "python", Path("/usr"))
    view = lay_out(
        wanted,
        environment,
        SINGLE,
        runner=tmp_path,
        config={},
        state=tmp_path,
        workspace=tmp_path,
        version=(0, 8),
        devices=shown,
    )
    words = view.arguments
    bound = [view.sources[words[at + 1].strip("@")] for at, word in enumerate(words) if word == "--dev-bind"]
    targets = [words[at + 2] for at, word in enumerate(words) if word == "--dev-bind"]
    assert bound == targets == list(shown)
    assert nodes["nvidia0"] not in view.sources.values()
    assert words.index("--dev") < words.index("--dev-bind") < words.index("--remount-ro")
    assert command_environment(wanted)["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert "CUDA_VISIBLE_DEVICES" not in command_environment(spec())


@pytest.mark.parametrize(
    ("gpu", "words"), [("GPU-7", "no GPU GPU-7"), ("MIG-2", "nvidia-ml-py"), ("GPU-0", "not open to every user")]
)
async def test_devices_that_cannot_be_shown_are_refused_with_what_mends_it(
    nodes: dict[str, str], monkeypatch: pytest.MonkeyPatch, gpu: str, words: str
) -> None:
    monkeypatch.setattr(bubblewrap_gpus, "CONTROL", (nodes["nvidiactl"], nodes["nvidia-uvm"]))
    os.chmod(nodes["nvidia0"], 0o660)
    with pytest.raises(BackendUnavailableError, match=words):
        bubblewrap_gpus.nodes([gpu], machine(nodes))


async def test_without_the_drivers_own_nodes_there_is_no_gpu(
    nodes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bubblewrap_gpus, "CONTROL", (nodes["nvidiactl"], "/no/such/node"))
    with pytest.raises(BackendUnavailableError, match="nvidia-modprobe"):
        bubblewrap_gpus.nodes(["GPU-0"], machine(nodes))


@pytest.mark.bubblewrap
async def test_a_device_node_that_is_handed_in_can_be_used_and_its_neighbour_is_not_there(
    docker_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes are made that act like /dev/zero: the way in is the same for a GPU's."""
    if os.geteuid() != 0:
        missing("making device nodes needs root")
    backend = BubblewrapBackend()
    verdict = (await backend.probe())[-1]
    if not verdict.ok:
        missing(verdict.detail)
    folder = Path(f"/dev/mlgym-test-{secrets.token_hex(4)}")
    folder.mkdir(mode=0o755)
    try:
        lent, other = folder / "lent", folder / "other"
        for node in (lent, other):
            os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
            node.chmod(0o666)
        gpu = Gpu("renderD200", "a device", 1000, nodes=(str(lent),))
        monkeypatch.setattr(bubblewrap_gpus, "discover", lambda: Inventory((gpu,)))
        async with await backend.create(spec(environment="bare", gpus=("renderD200",))) as sandbox:
            status, said = await run(
                sandbox, f"ls {folder}; head -c 3 {lent} | od -An -tx1; echo x > {lent} && echo ok"
            )
            assert (status.exit_code, said) == (0, "lent\n 00 00 00\nok\n")
            status, _ = await run(sandbox, f"touch {folder}/new || mknod {folder}/new c 1 5")
            assert status.exit_code != 0
        with pytest.raises(BackendUnavailableError, match="no GPU"):
            await backend.create(spec(environment="bare", gpus=("renderD201",)))
    finally:
        for node in folder.iterdir():
            node.unlink()
        folder.rmdir()
