"""The house prices' ``full`` preset from a small made-up table in OpenML's format: the reader, the split, solutions."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mlgym_mcp.catalog import Prepared, Task, TaskError, prepare
from mlgym_mcp.catalog.own_submissions import gold
from mlgym_mcp.catalog.sources import payload_path
from tests.catalog.conftest import ROOT, light_python, mlgym_home  # noqa: F401 - fixtures
from tests.catalog.test_tasks import copy_task, graded

pytestmark = pytest.mark.anyio

TRAIN, VAL, TEST = 60, 15, 25
SIZES = {"train = 1022, val = 146, test = 292, unlabelled = 438, last_id = 437": "train = 60, val = 15, test = 25, "
         "unlabelled = 40, last_id = 39"}  # fmt: skip
NAMED = {
    "MSZoning": ("RL", "RM", "C (all)"),
    "Neighborhood": ("NAmes", "CollgCr", "O'Brien"),
    "Exterior1st": ("Wd Sdng", "VinylSd"),
    "MasVnrType": ("None", "BrkFace"),
    "ExterQual": ("TA", "Gd", "Ex"),
    "PoolQC": ("Fa",),
}
NUMBERS = (
    "MSSubClass", "LotArea", "OverallQual", "YearBuilt", "YearRemodAdd", "TotalBsmtSF", "1stFlrSF", "2ndFlrSF",
    "FullBath", "HalfBath", "BsmtFullBath", "BsmtHalfBath", "Fireplaces", "GarageArea", "WoodDeckSF", "OpenPorchSF",
    "EnclosedPorch", "3SsnPorch", "ScreenPorch", "PoolArea", "MoSold", "YrSold",
)  # fmt: skip
REALS = ("LotFrontage", "MasVnrArea", "GarageYrBlt")


def houses() -> list[dict[str, Any]]:
    """Made-up houses with the names of some of the real columns; None is unknown."""
    rng = random.Random(7)
    made = []
    for number in range(1, TRAIN + VAL + TEST + 1):
        quality, size = rng.randint(3, 9), rng.randint(600, 1800)
        house: dict[str, Any] = {"Id": number}
        house |= {name: rng.randint(0, 3) for name in NUMBERS}
        house |= {"OverallQual": quality, "1stFlrSF": size, "YearBuilt": rng.randint(1900, 2008), "LotArea": 8 * size}
        house |= {"YearRemodAdd": 2005, "YrSold": rng.randint(2006, 2010)}
        house |= {name: None if rng.random() < 0.2 else rng.randint(10, 90) + 0.5 for name in REALS}
        house |= {name: rng.choice(values) for name, values in NAMED.items()}
        house["PoolQC"] = "Fa" if number == 3 else None
        house["SalePrice"] = 20_000 * quality + 60 * size + number
        made.append(house)
    return made


def arff_text(rows: list[dict[str, Any]]) -> str:
    """The rows as OpenML writes them."""
    types = dict.fromkeys(NAMED, "STRING") | dict.fromkeys(REALS, "REAL")
    lines = ["% Houses.", "%", "% LotArea: size of the lot, 5% {more or less}\t", "@RELATION made_up", ""]
    lines += [f"@ATTRIBUTE {name} {types.get(name, 'INTEGER')}" for name in rows[0]]
    lines += ["", "@DATA"]
    lines += [",".join(map(_cell, row.values())) for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if value is None:
        return "?"
    text = str(value)
    return "'" + text.replace("'", "\\'") + "'" if " " in text or "'" in text else text


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """The task with a small table in the place of the real one."""
    return with_payload(copy_task("house_price", tmp_path / "tasks", SIZES), arff_text(houses()))


def with_payload(task: Task, text: str) -> Task:
    """The task with other data, which is already here."""
    payload = text.encode()
    (task.folder / "data.lock.toml").write_text(f"""\
schema_version = 1
[[sources]]
name = "ames"
payload_bytes = {len(payload)}
payload_sha256 = "{hashlib.sha256(payload).hexdigest()}"
licence = "made up"
origins = [{{ kind = "url", url = "http://127.0.0.1:9/none" }}]
""")
    task = Task.load(task.folder)
    target = payload_path(task.lock.sources[0])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(payload)
    return task


def table(made: Prepared, name: str) -> list[dict[str, str]]:
    with (made.public / name).open(newline="") as file:
        return list(csv.DictReader(file))


def plain(house: dict[str, Any]) -> dict[str, str]:
    """A house's cells as they have to stand in the CSV, without its number and price."""
    return {k: "" if v is None else str(v) for k, v in house.items() if k not in ("Id", "SalePrice")}


async def test_the_real_houses_are_split_and_their_prices_hidden(task: Task, light_python: Path) -> None:  # noqa: F811
    made = await prepare(task, "full", python=light_python)
    train, test = table(made, "train.csv"), table(made, "test.csv")
    assert len(train) == TRAIN
    assert len(test) == VAL + TEST
    assert [row.pop("id") for row in train] == [str(i) for i in range(TRAIN)]
    assert [row.pop("id") for row in test] == [str(i) for i in range(VAL + TEST)]
    there = {tuple(plain(house).items()): house for house in houses()}
    assert len(there) == TRAIN + VAL + TEST
    numbers = []
    for row in train:
        price = row.pop("price")
        house = there.pop(tuple(row.items()))
        assert price == str(house["SalePrice"])
        numbers.append(house["Id"])
    numbers += [there.pop(tuple(row.items()))["Id"] for row in test]
    assert not there, "every house is in exactly one place"
    assert numbers[:TRAIN] != sorted(numbers[:TRAIN]), "in another order than published"
    assert numbers[TRAIN:] != sorted(numbers[TRAIN:])
    described = (made.public / "README.txt").read_text()
    assert "LotArea: size of the lot, 5% {more or less}\n" in described


async def test_real_houses_are_split_by_the_secret_world(task: Task, light_python: Path, mlgym_home: Path) -> None:  # noqa: F811
    first = await prepare(task, "full", python=light_python)
    for part in ("data", "vault"):
        shutil.rmtree(mlgym_home / part)
    assert (await prepare(task, "full", python=light_python)).digest == first.digest
    (mlgym_home / "worlds" / "house_price").unlink()
    assert (await prepare(task, "full", python=light_python)).digest != first.digest


async def test_perfect_prices_are_perfect_on_both_splits(task: Task, light_python: Path, tmp_path: Path) -> None:  # noqa: F811
    made = await prepare(task, "full", python=light_python)
    files = await gold(task, made, light_python)
    assert files is not None
    for split, count in (("val", VAL), ("test", TEST)):
        result = await graded(task, made, files, light_python, tmp_path, split)
        assert result.metrics["r2"] == 1.0
        assert result.public == {"houses": count}


@pytest.mark.parametrize("kind", ["baseline", "reference"])
async def test_the_solutions_run_on_real_columns(task: Task, light_python: Path, tmp_path: Path, kind: str) -> None:  # noqa: F811
    made = await prepare(task, "full", python=light_python)
    solution = task.solution(kind)  # type: ignore[arg-type]
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for name, path in solution.files.items():
        shutil.copy(path, workspace / name)
    assert solution.command is not None
    subprocess.run(
        [str(light_python), solution.command.split()[1]],
        cwd=workspace,
        env={"DATA_DIR": str(made.public), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        check=True,
    )
    files = {"submission.csv": (workspace / "submission.csv").read_bytes()}
    result = await graded(task, made, files, light_python, tmp_path)
    assert result.reason is None
    assert result.metrics["r2"] > 0.7


async def test_another_number_of_houses_is_refused(task: Task, light_python: Path) -> None:  # noqa: F811
    fewer = with_payload(task, arff_text(houses()[:-1]))
    with pytest.raises(TaskError, match="expected 100 houses with different Id, got 99"):
        await prepare(fewer, "full", python=light_python)


@pytest.fixture(scope="module")
def arff() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house_price_arff", ROOT / "tasks" / "house_price" / "arff.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


HEAD = (
    "@relation r\n@attribute n numeric\n@Attribute 'a b' {x, 'y z'}\n@ATTRIBUTE w Integer\n@attribute s string\n@data\n"
)


def test_arff_knows_types_quotes_and_gaps(arff: ModuleType) -> None:
    rows = "1.5,x,-3,plain\n\n% said in between\n?,'y z',?,'?'\n 2e3 , \"y z\" , 7 , 'it\\'s, \\\\ 5%'\n-.5,?,+1,\"\"\n"
    read = arff.read("% before\n" + HEAD + rows)
    assert read.comments == [" before", " said in between"]
    assert read.columns == {
        "n": [1.5, None, 2000.0, -0.5],
        "a b": ["x", "y z", "y z", None],
        "w": [-3, None, 7, 1],
        "s": ["plain", "?", "it's, \\ 5%", ""],
    }
    assert [type(value) for value in read.columns["w"]] == [int, type(None), int, int]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("1,x,3", "3 cells instead of 4"),
        ("1,x,3,s,t", "5 cells instead of 4"),
        ("1,x,3,s,", "cell 5 cannot be read"),
        ("1,x,3,", "cell 4 cannot be read"),
        ("one,x,3,s", "'one' is no number"),
        ("nan,x,3,s", "'nan' is no number"),
        ("inf,x,3,s", "'inf' is no number"),
        ("1e999,x,3,s", "'1e999' is no number"),
        ("1_0,x,3,s", "'1_0' is no number"),
        ("\u0661,x,3,s", "is no number"),
        ("1,x,3.0,s", "'3.0' is no whole number"),
        ("1,q,3,s", "'q' is not among"),
        ("1,x,3,'s", "cell 4 cannot be read"),
        ("1,x,3,'s't", "cell 4 cannot be read"),
        ("1,x,3,two words", "cell 4 cannot be read"),
        ("{0 1, 2 3}", "cell 1 cannot be read"),
        ("1,x,3,s % no comment", "cell 4 cannot be read"),
    ],
)
def test_arff_refuses_a_row_that_is_not_exactly_right(arff: ModuleType, row: str, why: str) -> None:
    with pytest.raises(arff.ArffError, match=f"line 8: .*{why}"):
        arff.read(f"{HEAD}1,x,3,s\n{row}\n")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "ends before @DATA"),
        ("@relation r\n@data\n1\n", "line 2: @DATA before any @ATTRIBUTE"),
        ("@relation r\n@attribute a numeric\n", "ends before @DATA"),
        ("@attribute a numeric\n@attribute a string\n@data\n", "line 2: a second attribute 'a'"),
        ("@attribute a date 'yyyy'\n@data\n", "expected @ATTRIBUTE, a name and a type"),
        ("@attribute a relational\n@data\n", "a type that is not known, 'relational'"),
        ("@attribute a {x, y\n@data\n", "expected @ATTRIBUTE, a name and a type"),
        ("1,2\n@data\n", "line 1: expected @RELATION, @ATTRIBUTE or @DATA"),
    ],
)
def test_arff_refuses_a_header_that_it_does_not_know(arff: ModuleType, text: str, why: str) -> None:
    with pytest.raises(arff.ArffError, match=why):
        arff.read(text)
