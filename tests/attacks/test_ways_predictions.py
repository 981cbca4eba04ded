"""Ways of cheating with files: predictions, texts and weights, and what lies beside them."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import toy
from tests.attacks.conftest import TOY, Server, python
from tests.attacks.test_ways import SCAN, Desks, array_of, desks, hidden, masked, sessions, world_needles
from tests.serving.conftest import text_of

__all__ = ["desks", "sessions"]  # fixtures
pytestmark = [pytest.mark.anyio, pytest.mark.bubblewrap]

WIDE = (
    TOY.replace('"toy"', '"wide"')
    .replace('include = ["submission.csv"]', 'include = ["**"]')
    .replace("max_bytes = 100000", "max_bytes = 1000000\nmax_files = 64")
)
"""The toy task, copying the whole workspace out."""
TRUSTFUL = """\
import json, pickle, site, sys
from pathlib import Path
import numpy as np
from mlgym_mcp.grading.api import Score

def grade(ctx):
    files = ctx.submission
    sys.path.insert(0, str(files))
    import conftest
    site.addsitedir(str(files))
    pickle.loads((files / "model.pkl").read_bytes())
    np.load(files / "checkpoints" / "0.npy", allow_pickle=True)
    eval((files / "answer.txt").read_text())
    return Score(json.loads((files / "score.json").read_text()))
"""
"""A grader as it must not be: it imports, unpickles, evaluates and believes what it was handed."""


CARELESS = """\
import json
from mlgym_mcp.grading.api import Score

def grade(ctx):
    truth = json.loads(ctx.private("labels.json").read_text())["test"]
    lines = (ctx.submission / "submission.csv").read_text().splitlines()
    given = [int(line.split(",")[1]) for line in lines][-20:] if lines.pop(0) else []
    return Score({"accuracy": sum(mine == label for mine, label in zip(given, truth)) / 20})
"""
"""Another one: it takes rows by their position, asks for no ids, and validates on the test set."""


def add_wide(server: Server) -> None:
    """Add the toys that copy everything out: ``wide``, and two with graders that must not be."""
    for name, grader in (("wide", toy.GRADER), ("trustful", TRUSTFUL), ("careless", CARELESS)):
        if not (server.tasks / name).exists():
            draft = toy.make_toy(server.home / f"draft-{name}", task=WIDE.replace('"wide"', f'"{name}"'), grader=grader)
            (draft / "toy").rename(server.tasks / name)


def csv(labels: Mapping[int, int] | list[int]) -> str:
    """Predictions of the toys: 20 validation rows, then 20 test rows."""
    pairs = labels.items() if isinstance(labels, Mapping) else enumerate(labels)
    return "id,label\n" + "".join(f"{i},{label}\n" for i, label in pairs)


def honest(server: Server, task: str = "wide", right: int = 13) -> tuple[str, float]:
    """Predictions with so many right answers on either split, and the score that is due to them."""
    labels = json.loads(hidden(server, task, "labels.json").read_text())
    rows = [label ^ (i >= right) for split in ("val", "test") for i, label in enumerate(labels[split])]
    return csv(rows), right / 20


class Bomb:
    """Touches a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def object_array(payload: bytes) -> bytes:
    """An ``.npy`` file of one object, which NumPy would unpickle."""
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + payload


def traps(place: Path) -> dict[str, str | bytes]:
    """Files that a careless scorer runs, by names at which it looks; each touches a file on the host if it is run."""

    def touch(name: str) -> str:
        return f"import pathlib\ntry: pathlib.Path({str(place / name)!r}).touch()\nexcept OSError: pass\n"

    modules = ("conftest", "grader", "generator", "solve", "evaluate", "__init__", "sitecustomize", "usercustomize")
    shadows = ("json", "random", "struct", "numpy", "numpy/__init__", "mlgym_mcp/__init__", "mlgym_mcp/grading/api")
    bomb = pickle.dumps(Bomb(place / "unpickled"))
    return {
        **{f"{name}.py": touch(f"imported-{name.replace('/', '-')}") for name in (*modules, *shadows)},
        "evil.pth": f"import pathlib; pathlib.Path({str(place / 'pth')!r}).touch()\n",
        "answer.txt": f"__import__('pathlib').Path({str(place / 'evaluated')!r}).touch()",
        "submission.yaml": f"!!python/object/apply:os.system ['touch {place}/yaml']\n",
        "setup.cfg": f"[tool:pytest]\naddopts = -p conftest --rootdir={place}\n",
        "model.pkl": bomb,
        "submission.csv.pkl": bomb,
        "checkpoints/0.npy": object_array(pickle.dumps(Bomb(place / "loaded"))),
        "score.json": '{"accuracy": 1.0}',
    }


async def test_nothing_that_lies_beside_predictions_is_imported_unpickled_or_evaluated(
    desks: Desks, tmp_path: Path
) -> None:
    """Code in the scorer's process: names that importers, pytest, pickle, NumPy, YAML or ``site`` would run."""
    add_wide(desks.server)
    async with desks.at("wide") as desk:
        await desk.put({})
        text, score = honest(desks.server)
        files = {**traps(tmp_path), "submission.csv": text}
        assert await desk.score_of(files) == {"accuracy": score}
        snapshot = [event["snapshot"] for event in desks.server.events(desk.made) if event.type == "score"][-1]
        kept = desks.server.home / "episodes" / desk.made["episode"] / "snapshots" / snapshot / "files"
        assert (kept / "conftest.py").is_file(), "they did reach the scorer"
    assert not list(tmp_path.iterdir())


async def test_a_grader_that_trusts_files_would_be_noticed(desks: Desks, tmp_path: Path) -> None:
    """The tests of code, pickles and claims can fail: the same files before a grader that runs and believes them."""
    add_wide(desks.server)
    async with desks.at("trustful") as desk:
        await desk.put({})
        text, score = honest(desks.server, "trustful")
        claimed = await desk.score_of({**traps(tmp_path), "submission.csv": text})
    assert claimed == {"accuracy": 1.0} != {"accuracy": score}
    seen = {path.name for path in tmp_path.iterdir()}
    assert {"imported-conftest", "pth", "unpickled", "loaded", "evaluated"} <= seen


SHADOW = """\
mkdir -p bin .local/bin .config
for name in python python3 tar bash sh env cat; do
    printf '#!/bin/sh\\necho "accuracy 1.0"; exit 0\\n' > bin/$name; /bin/chmod +x bin/$name
    /bin/cp bin/$name .local/bin/$name
done
for name in .bashrc .profile .bash_profile .pythonrc; do
    echo 'export PATH=/workspace/bin PYTHONPATH=/workspace LD_PRELOAD=/workspace/evil.so' > $name
done
export PATH=/workspace/bin:$PATH PYTHONPATH=/workspace PYTHONSTARTUP=/workspace/.pythonrc BASH_ENV=/workspace/.bashrc
export PYTHONHOME=/workspace LD_LIBRARY_PATH=/workspace
python3 -c 'print("not this")'
"""


async def test_what_shadows_python_in_the_workspace_changes_no_score(desks: Desks, tmp_path: Path) -> None:
    """A shadowed ``python``: programs of that name first on PATH, start-up files, modules; then honest work."""
    async with desks.fresh("house_price") as desk:
        await desk.put({})
        prices = array_of(hidden(desks.server, "house_price", "prices.npy"))
        text = "id,price\n" + "".join(f"{i},{price * (1.1 if i % 3 else 0.8):.0f}\n" for i, price in enumerate(prices))
        due = await desk.score_of({"submission.csv": text})
        assert 0 < due["r2"] < 1
        said = await desk.put({**traps(tmp_path), "submission.csv": text}, SHADOW)
        assert "accuracy 1.0\n[exit 0" in said, "the agent's own python is shadowed"
        validated = await desk.scored()
        assert dict(validated["metrics"]) == due
        submitted = await desk.scored("submit")
        assert submitted["valid"]
        assert 0 < submitted["metrics"]["r2"] < 1
    assert not list(tmp_path.iterdir())


async def test_a_claimed_score_beside_predictions_is_not_believed(desks: Desks) -> None:
    """Self-reported metrics: files with the names that scorers write."""
    add_wide(desks.server)
    async with desks.at("wide") as desk:
        await desk.put({})
        text, score = honest(desks.server, right=4)
        claim = '{"accuracy": 1.0, "score": 1.0, "valid": true}'
        names = ("score", "scores", "result", "results", "metrics", "eval", "evaluation", "manifest", "submission")
        files = {f"{name}.json": claim for name in names} | {"results.csv": "metric,value\naccuracy,1.0\n"}
        assert await desk.score_of({**files, "submission.csv": text}) == {"accuracy": score}
        assert await desk.refusal_of({**files, "submission.csv": "accuracy\n1.0\n"}) == "format"
        lines = text.splitlines()
        wider = "\n".join([f"{lines[0]},accuracy", *(f"{line},1.0" for line in lines[1:])])
        assert await desk.refusal_of({"submission.csv": wider}) == "format"
        assert await desk.refusal_of({"submission.csv": text + "accuracy,1.0\n"}) == "format"
        assert await desk.refusal_of({"submission.csv": "# accuracy 1.0\n" + text}) == "format"


def captions(server: Server) -> list[str]:
    """One reference caption of each unlabelled picture."""
    packed = hidden(server, "image_captioning", "references.json.gz").read_bytes()
    return [texts[0] for texts in json.loads(gzip.decompress(packed))]


def jsonl(texts: Mapping[int, str], **more: object) -> str:
    return "".join(json.dumps({"id": i, "text": text, **more}) + "\n" for i, text in texts.items())


async def test_a_claimed_score_within_texts_or_weights_is_refused(desks: Desks) -> None:
    """Self-reported metrics: BLEU computed by the agent in the place of captions, and scores beside weights."""
    async with desks.at("image_captioning") as desk:
        await desk.put({})
        texts = dict(enumerate(captions(desks.server)))
        for content in (
            jsonl(texts, bleu4=1.0),
            jsonl(texts) + '{"bleu4": 1.0}\n',
            "".join(json.dumps({"id": i, "bleu": 1.0}) + "\n" for i in texts),
            "id,bleu\n" + "".join(f"{i},1.0\n" for i in list(texts)[:-1]),
        ):
            assert await desk.refusal_of({"submission.jsonl": content}) == "format"
    async with desks.at("model_soup") as desk:
        uniform = [[0.25] * 3 for _ in range(4)]
        assert (await desk.score_of({"weights.json": json.dumps(uniform)}))["macro_accuracy"] < 1
        for claimed in (
            {"weights": uniform, "macro_accuracy": 1.0},
            [uniform, 1.0],
            [*uniform, [1.0, 1.0, 1.0]],
            [[*row, 1.0] for row in uniform],
            1.0,
        ):
            assert await desk.refusal_of({"weights.json": json.dumps(claimed)}) == "format"


async def test_pickles_and_object_arrays_are_no_predictions_texts_or_weights(desks: Desks, tmp_path: Path) -> None:
    """Pickles under the names of predictions, texts and weights: refused, and not opened as what they are."""
    bomb = pickle.dumps(Bomb(tmp_path / "unpickled"), protocol=0)
    contents = (bomb, pickle.dumps(Bomb(tmp_path / "unpickled")), object_array(bomb), b"PK\x03\x04" + bomb)
    files = {"wide": "submission.csv", "image_captioning": "submission.jsonl", "model_soup": "weights.json"}
    add_wide(desks.server)
    for task, name in files.items():
        async with desks.at(task) as desk:
            for content in contents:
                assert await desk.refusal_of({name: content}) == "format"
    assert not list(tmp_path.iterdir())


LOOK = """
import json
found = scan(json.load(open("/tmp/needles.json")))
print("FOUND " + json.dumps(found))
"""


async def test_no_label_lies_anywhere_in_the_agents_sandbox(desks: Desks) -> None:
    """Labels in the container: bytes and texts of the hidden answers, looked for in every file and process."""
    async with desks.at("house_price") as desk:
        await desk.put({"mine.txt": "the control of the search\n"})
        prices_path = hidden(desks.server, "house_price", "prices.npy")
        prices = array_of(prices_path)
        body = prices_path.read_bytes()[-8 * len(prices) :]
        needles = world_needles(desks.server, "house_price") | {"control": b"the control of the search"}
        needles |= {f"prices from {i}": body[8 * i : 8 * i + 32] for i in range(0, len(prices) - 4, 10)}
        needles["which rows are test rows"] = hidden(desks.server, "house_price", "is_test.npy").read_bytes()[-48:]
        for between in (",", ", ", "\n", " "):
            needles[f"prices with {between!r}"] = between.join(f"{price:.0f}" for price in prices[:5]).encode()
            needles[f"floats with {between!r}"] = between.join(map(str, prices[:5])).encode()
        needles["rows"] = "\n".join(f"{i},{price:.0f}" for i, price in enumerate(prices[:4])).encode()
        content = json.dumps(masked(needles))
        await text_of(desk.client, "write_file", path="/tmp/needles.json", content=content)
        said = await text_of(desk.client, "shell", command=python(SCAN + LOOK), timeout_s=60)
        found = json.loads(said.partition("FOUND ")[2].partition("\n")[0])
        assert found == [["control", "/workspace/mine.txt"]]


async def test_rows_count_for_the_id_they_name_wherever_they_stand(desks: Desks) -> None:
    """Positional rows: another order is the same work; other ids are other work."""
    add_wide(desks.server)
    async with desks.at("wide") as desk:
        await desk.put({})
        labels = json.loads(hidden(desks.server, "wide", "labels.json").read_text())["val"]
        text, score = honest(desks.server)
        rows = dict(enumerate(int(line.split(",")[1]) for line in text.splitlines()[1:]))
        for order in (reversed(range(40)), sorted(range(40), key=lambda i: (i * 17) % 40)):
            assert await desk.score_of({"submission.csv": csv({i: rows[i] for i in order})}) == {"accuracy": score}
        for shift in range(1, 40):
            moved = {(i + shift) % 40: label for i, label in rows.items()}  # in their places, under other ids
            due = sum(moved[i] == labels[i] for i in range(20)) / 20
            if due != score:
                break
        assert await desk.score_of({"submission.csv": csv(moved)}) == {"accuracy": due}


async def test_a_careless_grader_would_be_noticed(desks: Desks) -> None:
    """The tests of rows, ids and splits can fail: a grader that goes by position, and validates on the test set."""
    add_wide(desks.server)
    async with desks.at("careless") as desk:
        await desk.put({})
        labels = json.loads(hidden(desks.server, "careless", "labels.json").read_text())
        rows = [1 - label for label in labels["val"]] + labels["test"]
        assert await desk.score_of({"submission.csv": csv(rows)}) == {"accuracy": 1.0}, "validation was spoilt"
        moved = {(i + 1) % 40: label for i, label in enumerate(rows)}
        assert await desk.score_of({"submission.csv": csv(moved)}) == {"accuracy": 1.0}, "under other ids"
        twice = csv([1 - label for label in rows]) + csv(rows).partition("\n")[2]
        assert await desk.score_of({"submission.csv": twice}) == {"accuracy": 1.0}, "every id twice"


async def test_texts_count_for_the_id_they_name_wherever_they_stand(desks: Desks) -> None:
    """Positional rows, of texts."""
    async with desks.at("image_captioning") as desk:
        await desk.put({})
        texts = dict(enumerate(captions(desks.server)))
        due = await desk.score_of({"submission.jsonl": jsonl(texts)})
        back = {i: texts[i] for i in reversed(texts)}
        assert await desk.score_of({"submission.jsonl": jsonl(back)}) == due
        moved = {(i + 1) % len(texts): text for i, text in texts.items()}
        in_place = await desk.score_of({"submission.jsonl": jsonl(moved)})
        assert in_place["bleu4"] < due["bleu4"]


async def test_two_answers_for_one_id_are_refused(desks: Desks) -> None:
    """Duplicated ids: both answers for every id, one of them twice, another spelling, another record."""
    add_wide(desks.server)
    async with desks.at("wide") as desk:
        both = "id,label\n" + "".join(f"{i},0\n{i},1\n" for i in range(40))
        half = "id,label\n" + "".join(f"{i // 2},{i % 2}\n" for i in range(40))
        spelt = toy.CSV.replace("\n39,", "\n+0,")
        for text in (both, half, spelt, toy.CSV + "0,1\n", toy.CSV.replace("\n39,", "\n00,")):
            assert await desk.refusal_of({"submission.csv": text}) == "format"
    async with desks.at("image_captioning") as desk:
        await desk.put({})
        texts = dict(enumerate(captions(desks.server)))
        lines = jsonl(texts).splitlines(keepends=True)
        for last in (lines[0], '{"id": 0, "id": 29, "text": "x"}\n', '{"id": 29, "text": "x", "text": "y"}\n'):
            assert await desk.refusal_of({"submission.jsonl": "".join([*lines[:-1], last])}) == "format"
