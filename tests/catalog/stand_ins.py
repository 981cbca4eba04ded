"""Small stand-ins for the real data sets, in their real formats, and checks of what a task made of them.

A program for the data environment's Python (the tests' own has no numpy): ``make TASK FOLDER`` writes one file for
each source; ``check TASK FOLDER PUBLIC PRIVATE`` fails with an assertion unless the prepared data is as it has to be.
"""

import gzip
import io
import json
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

# -- what the data sets look like ---------------------------------------------------------------------------------


def make_fashion_mnist(folder: Path) -> None:
    """IDX files: the first 16 pixels of an image are its label, the rest is noise."""
    rng = np.random.default_rng(1)
    for part, count in (("train", 400), ("test", 100)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        images[:, 0, :16] = labels[:, None]
        (folder / f"{part}_images").write_bytes(struct.pack(">4I", 2051, count, 28, 28) + images.tobytes())
        (folder / f"{part}_labels").write_bytes(struct.pack(">2I", 2049, count) + labels.tobytes())


def make_cifar10(folder: Path) -> None:
    """Parquet with a PNG struct and a label in each row; the first pixel of a picture is its label, three times."""
    rng = np.random.default_rng(2)
    for part, count in (("train", 200), ("test", 60)):
        labels = np.arange(count) % 10
        pictures = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        pictures[:, 0, 0] = labels[:, None]
        rows = [{"bytes": _png(picture), "path": None} for picture in pictures]
        _parquet(folder / part, {"img": rows, "label": pa.array(labels)}, rows_in_a_group=64)


def make_image_captioning(folder: Path) -> None:
    """Zips of JPEGs, each of one colour under noise, whose captions name its number; one picture has no caption."""
    rng = np.random.default_rng(3)
    notes = zipfile.ZipFile(folder / "annotations", "w")
    for part, first, count in (("train", 0, 13), ("val", 20, 10)):
        images, captions = [], []
        with zipfile.ZipFile(folder / f"{part}_images", "w") as zipped:
            for number in range(first, first + count):
                name = f"{number:012}.jpg"
                noise = rng.integers(-20, 21, (260 + 2 * number, 300, 3))
                zipped.writestr(f"{part}2017/{name}", _jpeg((_colour(number) + noise).astype(np.uint8)))
                images.append({"id": number, "file_name": name, "license": 1})
                captions += [
                    {
                        "id": 10 * number + i,
                        "image_id": number,
                        "caption": f"Picture  number {number}, view {i}.\n",
                    }
                    for i in range(0 if number == 12 else 5)
                ]
        notes.writestr(f"annotations/captions_{part}2017.json", json.dumps({"images": images, "annotations": captions}))
    notes.close()


def _colour(number: int) -> int:
    """The brightness of a picture: six steps apart."""
    return 30 + 6 * number


def make_house_price(folder: Path) -> None:
    """ARFF with a long description; the lot's area tells which house it is, and so its price."""
    rng = np.random.default_rng(5)
    lines = [f"% {number} {rng.bytes(60).hex()}" for number in range(400)]
    kinds = "INTEGER", "{'C (all)',RL,RM}", "NUMERIC", "INTEGER", "STRING", '{NA,Ex,"Po"}', "INTEGER"
    names = "Id", "MSZoning", "LotFrontage", "LotArea", "Neighborhood", "PoolQC", "SalePrice"
    lines += [
        "@RELATION house_prices",
        "",
        *(f"@ATTRIBUTE {n} {k}" for n, k in zip(names, kinds, strict=True)),
        "@DATA",
    ]
    for number in range(1, 301):
        zone = ("RL", "'C (all)'", "RM")[number % 3]
        frontage = "?" if number % 4 == 0 else f"{number / 2}"
        place = "'O\\'Neill, North'" if number % 2 else "CollgCr"
        lines.append(f"{number},{zone},{frontage},{number + 5000},{place},?,{_price(number)}")
    (folder / "ames").write_text("\n".join(lines) + "\n")


def _price(number: int) -> int:
    return 50_000 + 37 * number * number % 400_000


def make_mnli(folder: Path) -> None:
    """Parquet as GLUE keeps it, with some rows that nobody agreed on, and the files of a language model."""
    rng = np.random.default_rng(6)
    for part, count in (("train", 150), ("validation_matched", 40), ("validation_mismatched", 30)):
        labels = [-1 if i % 10 == 9 else i % 3 for i in range(count)]
        words = [rng.bytes(300).hex() for _ in range(count)]
        columns = {
            "premise": [f'Premise {word}, "quoted", é' for word in words],
            "hypothesis": [f"Hypothesis {part} {i}\tof {label}" for i, label in enumerate(labels)],
            "label": pa.array(labels, pa.int64()),
            "idx": pa.array(range(count), pa.int32()),
        }
        _parquet(folder / part, columns, rows_in_a_group=25)
    for part in ("model", "config", "vocab"):
        (folder / f"bert_{part}").write_bytes(part.encode() * 100)


def make_language_modeling(folder: Path) -> None:
    """Token shards: 256 numbers of 32 bits, then tokens of 16 bits. Each part has tokens of its own.

    The paper's part at the front of the validation shard is nothing but token 7, what comes after it counts up.
    """
    rng = np.random.default_rng(4)
    train = rng.integers(45_000, 50_257, 200_000)
    validation = np.concatenate([np.full(10_485_760, 7), np.arange(1000, 41_000)])
    for part, tokens in (("train", train), ("validation", validation)):
        header = np.zeros(256, "<i4")
        header[:3] = 20240520, 1, len(tokens)
        (folder / part).write_bytes(header.tobytes() + tokens.astype("<u2").tobytes())


def _jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _parquet(path: Path, columns: dict, rows_in_a_group: int) -> None:
    parquet.write_table(pa.table(columns), path, row_group_size=rows_in_a_group)


# -- what must have become of them --------------------------------------------------------------------------------


def check_fashion_mnist(folder: Path, public: Path, private: Path) -> None:
    train, labels = np.load(public / "train_images.npy"), np.load(public / "train_labels.npy")
    _images(
        train,
        labels,
        np.load(public / "test_images.npy"),
        np.load(private / "answers.npy"),
        np.load(private / "is_test.npy"),
        np.frombuffer((folder / "test_images").read_bytes(), np.uint8, offset=16).reshape(-1, 28, 28),
    )
    assert train.shape == (300, 28, 28)


def check_cifar10(folder: Path, public: Path, private: Path) -> None:
    train, test = np.load(public / "train.npz"), np.load(public / "test.npz")
    assert set(test) == {"images"}
    rows = parquet.read_table(folder / "test")["img"].to_pylist()
    published = np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in rows])
    answers, is_test = np.load(private / "answers.npy"), np.load(private / "is_test.npy")
    _images(train["images"], train["labels"], test["images"], answers, is_test, published)
    assert train["images"].shape == (160, 32, 32, 3)


def check_house_price(_folder: Path, public: Path, private: Path) -> None:
    train, test = pd.read_csv(public / "train.csv"), pd.read_csv(public / "test.csv", keep_default_na=False)
    prices, is_test = np.load(private / "prices.npy"), np.load(private / "is_test.npy")
    assert len(train) == 200
    assert len(test) == len(prices) == len(is_test) == 100
    assert is_test.sum() == 60
    assert list(train.columns) == [*test.columns, "price"]
    assert test.columns[0] == "id"
    for table in (train, test):
        assert table["id"].tolist() == list(range(len(table)))
    numbers = [*(train["LotArea"] - 5000), *(test["LotArea"].astype(int) - 5000)]
    assert sorted(numbers) == list(range(1, 301)), "each house once"
    assert numbers[200:] != sorted(numbers[200:])
    assert [_price(number) for number in numbers] == [*train["price"], *prices]
    assert "Id" not in test.columns
    assert set(test["Neighborhood"]) == {"O'Neill, North", "CollgCr"}
    assert set(test["PoolQC"]) == {""}
    _mixed(is_test)


def check_mnli(folder: Path, public: Path, private: Path) -> None:
    train = [json.loads(line) for line in (public / "train.jsonl").open(encoding="utf-8")]
    pool = [json.loads(line) for line in (public / "test.jsonl").open(encoding="utf-8")]
    answers, is_test = np.load(private / "answers.npy"), np.load(private / "is_test.npy")
    assert len(train) == 135
    assert {tuple(row) for row in train} == {("premise", "hypothesis", "label")}
    assert {tuple(row) for row in pool} == {("id", "premise", "hypothesis")}
    assert [row["id"] for row in pool] == list(range(63))
    facts = [row["hypothesis"].split() for row in [*train, *pool]]
    assert [int(fact[-1]) for fact in facts] == [*(row["label"] for row in train), *answers]
    assert [fact[1] == "validation_matched" for fact in facts[135:]] == is_test.tolist()
    assert len({tuple(fact) for fact in facts}) == len(facts)
    positions = [int(fact[2]) for fact in facts[135:]]
    assert positions != sorted(positions)
    assert all(row["premise"].endswith(', "quoted", é') for row in [*train, *pool])
    _mixed(is_test)
    for part, name in (("model", "model.safetensors"), ("config", "config.json"), ("vocab", "vocab.txt")):
        assert (public / "bert" / name).read_bytes() == (folder / f"bert_{part}").read_bytes()


def check_language_modeling(folder: Path, public: Path, private: Path) -> None:
    assert (public / "train.bin").read_bytes() == (folder / "train").read_bytes()[1024:]
    assert json.loads((public / "info.json").read_text()) == {"vocab": 50_257, "dtype": "uint16", "context": 16}
    tokens = {split: np.load(private / f"{split}.npz")["windows"].ravel().tolist() for split in ("val", "test")}
    for numbers in tokens.values():
        assert len(numbers) >= 17 * 64
        assert len(set(numbers)) == len(numbers), "no window holds what another one asks for"
        assert 1000 <= min(numbers) <= max(numbers) < 41_000, "nothing of the paper's part, nothing of the training's"
    assert not set(tokens["val"]) & set(tokens["test"]), "what is scored at the end was not asked before"


def check_image_captioning(_folder: Path, public: Path, private: Path) -> None:
    lines = [json.loads(line) for line in (public / "train_captions.jsonl").read_text().splitlines()]
    train = np.concatenate([np.load(path) for path in sorted(public.glob("train_images_*.npy"))])
    pool = np.concatenate([np.load(path) for path in sorted(public.glob("test_images_*.npy"))])
    assert train.shape == (12, 32, 32, 3)
    assert pool.shape == (10, 32, 32, 3)
    assert train.dtype == pool.dtype == np.uint8
    assert [line["id"] for line in lines] == list(range(12))
    captions = [line["captions"] for line in lines]
    references = json.loads(gzip.decompress((private / "references.json.gz").read_bytes()))
    numbers = []
    for picture, texts in zip([*train, *pool], [*captions, *references], strict=True):
        number = int(texts[0].split()[2].strip(","))
        assert sorted(texts) == [f"Picture number {number}, view {i}." for i in range(5)]
        assert abs(float(picture.mean()) - _colour(number)) < 3, "the captions belong to the pictures"
        numbers.append(number)
    assert sorted(numbers[:12]) == list(range(12))
    assert sorted(numbers[12:]) == list(range(20, 30))
    assert numbers[12:] != sorted(numbers[12:])
    assert np.load(private / "is_test.npy").sum() == 6
    for path in public.glob("*.jsonl"):
        assert not any(f"number {number}," in path.read_text() for number in range(20, 30))


def _images(
    train: np.ndarray,
    labels: np.ndarray,
    unlabelled: np.ndarray,
    answers: np.ndarray,
    is_test: np.ndarray,
    published: np.ndarray,
) -> None:
    """Images that carry their labels in the first pixel: nothing lost, nothing twice, all in a secret order."""
    assert train.dtype == unlabelled.dtype == np.uint8
    first = (0,) * (train.ndim - 1)
    assert [image[first] for image in train] == labels.tolist()
    assert [image[first] for image in unlabelled] == answers.tolist()
    assert len(answers) == len(is_test) == len(unlabelled)
    seen = [image.tobytes() for image in (*train, *unlabelled)]
    assert len(set(seen)) == len(seen), "no image twice"
    order = [image.tobytes() for image in published]
    positions = [order.index(image.tobytes()) for image in unlabelled[is_test]]
    assert sorted(positions) == list(range(len(order))), "the whole published test set is hidden"
    assert positions != sorted(positions), "in another order than published"
    _mixed(is_test)
    counts = np.bincount(answers[~is_test], minlength=10)
    assert counts.min() == counts.max() > 0, "as many of each class are kept for validation"


def _mixed(is_test: np.ndarray) -> None:
    """Both splits lie all over the pool: its order says nothing about the split."""
    assert is_test.dtype == bool
    half = len(is_test) // 2
    share = is_test.mean()
    assert 0 < share < 1
    for part in (is_test[:half], is_test[half:]):
        assert abs(part.mean() - share) < 0.35


# -- the real ones ------------------------------------------------------------------------------------------------


def check_fashion_mnist_real(_folder: Path, public: Path, private: Path) -> None:
    """What is known of the publisher's files: 10 classes, equally many in each."""
    train, labels = np.load(public / "train_images.npy"), np.load(public / "train_labels.npy")
    pool, answers = np.load(public / "test_images.npy"), np.load(private / "answers.npy")
    is_test = np.load(private / "is_test.npy")
    assert train.shape == (55_000, 28, 28)
    assert pool.shape == (15_000, 28, 28)
    assert np.bincount(labels).tolist() == [5500] * 10
    assert np.bincount(answers[is_test]).tolist() == [1000] * 10
    assert np.bincount(answers[~is_test]).tolist() == [500] * 10
    assert 72.5 < np.concatenate([train, pool]).mean() < 73.5
    trousers, boots = train[labels == 1].mean(0), train[labels == 9].mean(0)
    assert trousers[:, 13].mean() > boots[:, 13].mean(), "the labels belong to the images"
    right = _by_nearest_mean(train, labels, pool) == answers
    assert 0.6 < right.mean() < 0.75, "and so do the hidden ones"
    _mixed(is_test)


def _by_nearest_mean(train: np.ndarray, labels: np.ndarray, pool: np.ndarray) -> np.ndarray:
    means = np.stack([train[labels == label].mean(0).ravel() for label in range(10)]).astype(np.float32)
    flat = pool.reshape(len(pool), -1).astype(np.float32)
    return ((means**2).sum(1) - 2 * flat @ means.T).argmin(1)


def main(action: str, name: str, *folders: str) -> None:
    globals()[f"{action}_{name}"](*map(Path, folders))
    print(json.dumps(True))


if __name__ == "__main__":
    main(*sys.argv[1:])
