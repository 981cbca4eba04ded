"""The ``full`` presets of the shipped tasks, from small stand-ins in the real formats, served on the loopback.

The project's own loaders run, with the addresses and checksums of the stand-ins. Fashion-MNIST is also prepared
from the real thing.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from typing import Any

import anyio
import pytest

from mlgym_mcp.catalog import Catalog, SourceError, Task, prepare, sources, state
from mlgym_mcp.catalog.lock import DebOrigin, Source
from mlgym_mcp.catalog.own_submissions import gold
from mlgym_sandbox import environment
from tests.catalog.conftest import ROOT
from tests.catalog.mirror import Mirror, running_mirror, sha256
from tests.catalog.test_tasks import graded

pytestmark = pytest.mark.anyio


Payloads = Callable[[str], Path]


@dataclass(frozen=True)
class StandIn:
    """A small data set in the place of a real one.

    Attributes:
        params: the preset's parameters for its size.
        has_gold: whether the task knows a perfect submission.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    has_gold: bool = True


STAND_INS = {
    "cifar10": StandIn({"train": 160, "val": 40, "test": 60, "unlabelled": 100, "last_id": 99}),
    "house_price": StandIn({"train": 200, "val": 40, "test": 60, "unlabelled": 100, "last_id": 99}),
    "language_modeling": StandIn({"context": 16, "val_windows": 64, "test_windows": 128, "batch": 32}, has_gold=False),
    "mnli": StandIn({"train": 135, "val": 27, "test": 36, "unlabelled": 63, "last_id": 62}),
    "image_captioning": StandIn({"train": 12, "val": 4, "test": 6, "side": 32, "unlabelled": 10, "last_id": 9}),
    "fashion_mnist": StandIn({"train": 300, "val": 100, "unlabelled": 200, "last_id": 199}),
}


@pytest.fixture(scope="session")
def data_environment() -> environment.Environment:
    """The environment that decodes real data: the user's own if there is one, else prepared there now."""
    return environment.find("data") or anyio.run(environment.prepare, "data")


@pytest.fixture
def data_python(data_environment: environment.Environment, light_python: Path, mlgym_home: Path) -> Path:
    """Its Python; the home of this test has both environments."""
    folder = mlgym_home / "environments"
    folder.mkdir(parents=True)
    for path in (data_environment.path, light_python.parent.parent):
        (folder / path.name).symlink_to(path)
    return data_environment.python


@pytest.fixture(scope="session")
def payloads(data_environment: environment.Environment, tmp_path_factory: pytest.TempPathFactory) -> Payloads:
    """The folder with the small payloads of a task, by the names of its sources; made once."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            stand_ins(data_environment.python, "make", name, folder)
            made[name] = folder
        return made[name]

    return of


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with running_mirror() as made:
        yield made


def stand_ins(python: Path, *arguments: object) -> None:
    """Run the program beside this one."""
    command = [str(python), "-I", "-B", str(Path(__file__).with_name("stand_ins.py")), *map(str, arguments)]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | threads)
    assert done.returncode == 0, done.stderr


def toml(value: Any) -> str:
    """A value as TOML, all of it in one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def small(name: str, folder: Path, payloads: Path, mirror: Mirror) -> Task:
    """Copy a shipped task; its lock file names the small payloads, which are on the mirror."""
    task = Task.load(copytree(ROOT / "tasks" / name, folder / "tasks" / name))
    spec = tomllib.loads((task.folder / "task.toml").read_text())
    spec["presets"]["full"].setdefault("params", {}).update(STAND_INS[name].params)
    (task.folder / "task.toml").write_text("".join(f"{key} = {toml(value)}\n" for key, value in spec.items()))
    served = [serve(source, (payloads / source.name).read_bytes(), mirror) for source in task.lock.sources]
    (task.folder / "data.lock.toml").write_text(f"schema_version = 1\nsources = {toml(served)}\n")
    return Task.load(task.folder)


def serve(source: Source, payload: bytes, mirror: Mirror) -> dict[str, Any]:
    """Put a payload on the mirror; a source as the lock file has it, pinned in the same way, from there."""
    sent = gzip.compress(payload, 1) if source.compression == "gzip" else payload
    facts = {
        "payload_bytes": len(payload),
        "payload_sha256": sha256(payload),
        "payload_md5": hashlib.md5(payload).hexdigest(),
    }
    raw = source.model_dump(mode="json", exclude_none=True)
    raw |= {key: value for key, value in facts.items() if key in raw}
    raw["origins"] = []
    for number, origin in enumerate(source.origins):
        if isinstance(origin, DebOrigin):
            continue  # apt would be asked before any mirror
        said = origin.model_dump(mode="json", exclude_none=True)
        said |= {key: value for key, value in (("bytes", len(sent)), ("sha256", sha256(sent))) if key in said}
        if origin.kind == "hf":
            kind = "datasets/" if origin.repo_type == "dataset" else ""
            mirror.hub(origin.repo, origin.revision, origin.path, sent, kind)
        else:
            path = f"/plain/{source.name}/{number}"
            mirror.files[path] = sent
            said["url"] = mirror.address + path
        raw["origins"].append(said)
    return raw


def wanted(task: Task) -> list[Source]:
    return [task.lock.source(name) for name in task.preset("full").data.sources]


def hub_at(mirror: Mirror) -> dict[str, str]:
    return {"HF_ENDPOINT": mirror.address}


def real_presets() -> list[str]:
    return [
        task.id
        for task in Catalog([ROOT / "tasks"]).tasks()
        if "full" in task.spec.presets and task.preset("full").data.kind == "real"
    ]


def test_every_real_data_set_has_a_stand_in() -> None:
    assert set(real_presets()) == set(STAND_INS)


@pytest.mark.parametrize("name", STAND_INS)
async def test_a_full_preset_is_prepared_as_promised(
    name: str, data_python: Path, payloads: Payloads, light_python: Path, mirror: Mirror, tmp_path: Path
) -> None:
    task = small(name, tmp_path, payloads(name), mirror)
    made = await prepare(task, "full", environ=hub_at(mirror))
    assert made.verify() == []
    section = re.search(r"\*\*Data\*\*.*?(?=\n\*\*)", task.instruction("full"), re.DOTALL)
    assert section is not None
    promised = re.findall(r"`(?:/data/)?([\w./*-]+\.\w+)`", section[0])
    assert promised
    for pattern in promised:
        assert fnmatch.filter(made.public_files(), pattern), f"the instruction promises {pattern}"
    stand_ins(data_python, "check", name, payloads(name), made.public, made.private)
    for split in ("val", "test"):
        perfect = await gold(task, made, light_python, split=split)  # type: ignore[arg-type]
        assert (perfect is not None) is STAND_INS[name].has_gold
        if perfect is not None:
            result = await graded(task, made, perfect, light_python, tmp_path, split)
            metric = task.spec.primary_metric
            assert result.reason is None
            assert result.metrics[metric.name] == pytest.approx(metric.optimal, abs=1e-9)


@pytest.mark.parametrize("name", STAND_INS)
async def test_a_full_preset_killed_in_mid_download_goes_on_where_it_was(
    name: str, data_python: Path, payloads: Payloads, mirror: Mirror, tmp_path: Path, mlgym_home: Path
) -> None:
    task = small(name, tmp_path, payloads(name), mirror)
    mirror.bytes_per_s = 25_000
    program = (
        "import anyio, sys\nfrom pathlib import Path\nfrom mlgym_mcp.catalog import Task, prepare\n"
        "anyio.run(prepare, Task.load(Path(sys.argv[1])), 'full')"
    )
    command = [sys.executable, "-c", program, str(task.folder)]
    server = subprocess.Popen(command, cwd=ROOT, env=os.environ | hub_at(mirror))
    try:
        part = await grown_part(mlgym_home / "downloads", 20_000)
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
    here = part.stat().st_size
    assert state(task, "full") == "missing"
    assert not list((mlgym_home / "data" / name).glob("[!.]*")), "nothing that could be taken for data"
    mirror.bytes_per_s = 0
    mirror.requests.clear()
    made = await prepare(task, "full", environ=hub_at(mirror))
    assert made.verify() == []
    (resumed,) = (path for path, begin in mirror.requests if begin == f"bytes={here}-" and path in mirror.files)
    assert [begin for path, begin in mirror.requests if path == resumed] == [f"bytes={here}-"]
    assert mirror.sent[resumed, f"bytes={here}-"] == len(mirror.files[resumed]) - here
    left = {path.name for path in (mlgym_home / "downloads").iterdir()} - {".lock"}
    assert left == {sources.payload_path(source).name for source in wanted(task)}


async def grown_part(folder: Path, size: int) -> Path:
    """Wait for a partial download of so many bytes."""
    with anyio.fail_after(60):
        while True:
            for part in folder.glob(".*.part"):
                if re.fullmatch(r"\.[0-9a-f]{16}\.part", part.name) and part.stat().st_size >= size:
                    return part
            await anyio.sleep(0.01)


@pytest.mark.parametrize("name", STAND_INS)
async def test_a_full_preset_with_the_wrong_bytes_stays_missing(
    name: str, data_python: Path, payloads: Payloads, mirror: Mirror, tmp_path: Path
) -> None:
    task = small(name, tmp_path, payloads(name), mirror)
    victim = wanted(task)[0]
    if victim.trust is not None:  # then the first ones are right by definition
        await sources.fetch([victim], environ=hub_at(mirror))
        sources.payload_path(victim).unlink()
    right = dict(mirror.files)
    payload = (payloads(name) / victim.name).read_bytes()
    spoilt = payload[:-1] + bytes([payload[-1] ^ 1])
    for path, data in right.items():
        if data == payload:
            mirror.files[path] = spoilt
        elif data[:2] == b"\x1f\x8b" and gzip.decompress(data) == payload:
            mirror.files[path] = gzip.compress(spoilt)
    assert mirror.files != right
    with pytest.raises(SourceError, match=f"{victim.name} cannot be had: .*(wrong|is not what)") as caught:
        await prepare(task, "full", environ=hub_at(mirror))
    assert caught.value.kind == "checksum"
    assert state(task, "full") == "missing"


@pytest.fixture
def closed() -> Iterator[str]:
    """An address of this machine where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def command_line(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")} | more
    command = [sys.executable, "-m", "mlgym_mcp.cli.entry", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ, cwd=ROOT)


def test_without_a_network_a_full_preset_is_missing_and_says_so_in_one_sentence(closed: str) -> None:
    name = "cifar10"
    network = {"HF_ENDPOINT": closed, "http_proxy": closed, "https_proxy": closed}
    done = command_line("tasks", "prepare", name, "--preset", "full", **network)
    assert done.returncode == 1
    assert done.stdout.strip() == ""
    sentence = done.stderr.strip()
    assert "\n" not in sentence
    assert re.match(r"mlgym-mcp: \w+ cannot be had: .*cannot be reached", sentence)
    listed = json.loads(command_line("tasks", "list", "--json").stdout)
    assert {task["id"]: task["data"]["full"] for task in listed if "full" in task["data"]}[name] == "missing"


@pytest.mark.slow
async def test_fashion_mnist_full_is_the_real_data(
    data_python: Path, light_python: Path, real_tasks: Catalog, tmp_path: Path
) -> None:
    task = real_tasks.get("fashion_mnist")
    try:
        made = await prepare(task, "full")
    except SourceError as error:
        if error.kind == "checksum" or os.environ.get("CI"):
            raise
        pytest.skip(f"the data cannot be had on this machine: {error}")
    stand_ins(data_python, "check", "fashion_mnist_real", tmp_path, made.public, made.private)
    assert made.manifest.sources == {source.name: source.payload_sha256 for source in wanted(task)}
    perfect = await gold(task, made, light_python)
    assert perfect is not None
    for split, size in (("val", 5_000), ("test", 10_000)):
        result = await graded(task, made, perfect, light_python, tmp_path, split)
        assert result.metrics == {"accuracy": 1.0}
        assert result.public == {"images": size}
