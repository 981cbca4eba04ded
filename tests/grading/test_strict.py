"""Strict readers: a good file is read exactly, anything else is refused in one sentence."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlgym_mcp.grading import strict
from mlgym_mcp.grading.errors import InvalidSubmission

quick = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes | str], Path]:
    def put(content: bytes | str, name: str = "s.csv") -> Path:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path

    return put


def classes(folder: Path, rows: int = 2, top: int = 10) -> list[int]:
    return strict.read_classes(folder, "s.csv", header=("id", "label"), ids=range(rows), classes=top)


def numbers(folder: Path, rows: int = 1, low: float = 1.0, high: float = 1e8) -> list[float]:
    return strict.read_numbers(folder, "s.csv", header=("id", "price"), ids=range(rows), low=low, high=high)


def refused(call: Callable[[], object]) -> InvalidSubmission:
    with pytest.raises(InvalidSubmission) as caught:
        call()
    assert len(caught.value.sentence) < 400
    assert "\n" not in caught.value.sentence
    return caught.value


@pytest.mark.parametrize(
    "text",
    ["id,label\n0,3\n1,9\n", "id,label\n0,3\n1,9", "id,label\r\n0,3\r\n1,9\r\n", "id,label\n1,9\n0,3\n"],
)
def test_a_good_file_is_read_in_the_order_asked_for(write: Callable[[str], Path], text: str) -> None:
    assert classes(write(text)) == [3, 9]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("", "format", "0 lines"),
        ("\n", "format", "1 lines"),
        ("id,label\n", "format", "1 lines, expected a header and 2 rows"),
        ("label,id\n0,1\n1,1\n", "format", "expected the header 'id,label'"),
        ("Id,label\n0,1\n1,1\n", "format", "line 1"),
        ("\ufeffid,label\n0,1\n1,1\n", "format", "byte-order mark"),
        ("0,1\n1,1\n2,1\n", "format", "header"),
        ("id,label\n0,1\n1,1\n\n", "format", "4 lines"),
        ("id,label\n0,1\n1,1\n2,1\n", "format", "4 lines"),
        ("id,label\n0,1\n0,1\n", "format", "line 3: the id 0 occurs twice"),
        ("id,label\n0,1\n2,1\n", "format", "line 3: found the id 2"),
        ("id,label\n0,1\n-1,1\n", "format", "found the id -1"),
        ("id,label\n0,1,2\n1,1\n", "format", "line 2: found '0,1,2'"),
        ("id,label\n0\n1,1\n", "format", "two columns"),
        ("id,label\n0,\n1,1\n", "format", "found the label ''"),
        ("id,label\n0, 1\n1,1\n", "format", "' 1'"),
        ('id,label\n"0","1"\n1,1\n', "format", "line 2"),
        ("id,label\n0,3.0\n1,1\n", "format", "'3.0', expected a whole number from 0 to 9"),
        ("id,label\n0,+3\n1,1\n", "format", "'+3'"),
        ("id,label\n0,03\n1,1\n", "format", "'03'"),
        ("id,label\n0,1_0\n1,1\n", "format", "'1_0'"),
        ("id,label\n0,٣\n1,1\n", "format", "expected a whole number"),
        ("id,label\n\u0660,3\n1,1\n", "format", "expected a whole number"),
        ("id,label\n0,³\n1,1\n", "format", "line 2"),
        ("id,label\n0,=1+1\n1,1\n", "format", "'=1+1'"),
        ("id,label\n0,10\n1,1\n", "range", "'10', expected a whole number from 0 to 9"),
        ("id,label\n0,-1\n1,1\n", "format", "'-1'"),
        ("id,label\n0," + "9" * 100 + "\n1,1\n", "format", "…"),
        ("id,label\n0,1\r1,1\n1,1\n", "format", "line 2"),
        ("id,label\n0,1\x001\n1,1\n", "format", "NUL"),
        ("id,label\n0,1\u2028\n1,1\n", "format", "line 2"),
        ("id,label\n0,1\n1,1\n" + "x" * 100_000, "too_large", "at most"),
        ("id,label\n" + "0" * 900 + ",1\n1,1\n", "format", "line 2: found 902 bytes"),
    ],
)
def test_what_is_not_exactly_as_asked_is_refused(write: Callable[[str], Path], text: str, code: str, said: str) -> None:
    error = refused(lambda: classes(write(text)))
    assert error.code == code
    assert said in error.sentence
    assert error.sentence.startswith("s.csv")


@pytest.mark.parametrize("cell", ["1", "1.5", "1.", "+2", "1e3", "1E+3", "250000.00", "0.5e1", "00012"])
def test_plain_decimals_are_numbers(write: Callable[[str], Path], cell: str) -> None:
    assert numbers(write(f"id,price\n0,{cell}\n")) == [float(cell)]


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        *((cell, "format") for cell in ("nan", "NaN", "inf", "-inf", "infinity", "0x10", "1_0", "", ".", "e5")),
        *((cell, "format") for cell in ("1,5", "1 ", " 1", "\uff11", "1e", "--1", "1e1000", "=1", "1f", "9" * 70)),
        *((cell, "range") for cell in ("1e999", "-1", "0", "0.999", "100000001", "-0")),
    ],
)
def test_what_is_no_finite_decimal_in_range_is_refused(write: Callable[[str], Path], cell: str, code: str) -> None:
    assert refused(lambda: numbers(write(f"id,price\n0,{cell}\n"))).code == code


def test_links_folders_devices_and_fifos_are_refused_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("id,label\n0,1\n1,1\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "s.csv").write_text("id,label\n0,1\n1,1\n")
    (tmp_path / "s.csv").symlink_to("real.csv")
    assert refused(lambda: classes(tmp_path)).code == "forbidden"
    (tmp_path / "s.csv").unlink()
    os.mkfifo(tmp_path / "s.csv")
    assert refused(lambda: classes(tmp_path)).code == "forbidden"
    (tmp_path / "s.csv").unlink()
    (tmp_path / "s.csv").mkdir()
    assert refused(lambda: classes(tmp_path)).code == "forbidden"
    (tmp_path / "s.csv").rmdir()
    assert refused(lambda: classes(tmp_path)).code == "missing"
    (tmp_path / "linked").symlink_to("deep")
    for name in ("linked/s.csv", "deep/../real.csv", "/etc/passwd", "deep//s.csv", "a\0b", ""):
        with pytest.raises(InvalidSubmission) as caught:
            strict.read_bytes(tmp_path, name, max_bytes=100)
        assert caught.value.code == "forbidden"
    assert strict.read_bytes(tmp_path, "deep/s.csv", max_bytes=100).startswith(b"id")


def test_a_sparse_giant_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "s.csv").open("wb") as file:
        file.truncate(100 << 30)
    assert refused(lambda: classes(tmp_path)).code == "too_large"


def test_no_descriptor_is_leaked(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "s.csv").mkdir()
    for _ in range(10):
        refused(lambda: classes(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before


@quick
@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.randoms(), st.booleans(), st.booleans())
def test_classes_round_trip(write, labels, random, crlf, newline) -> None:
    rows = [f"{index},{label}" for index, label in enumerate(labels)]
    random.shuffle(rows)
    text = ("\r\n" if crlf else "\n").join(["id,label", *rows]) + ("\n" if newline else "")
    assert classes(write(text), rows=len(labels)) == labels


@quick
@given(st.lists(st.floats(-1e300, 1e300, allow_nan=False), min_size=1, max_size=30))
def test_numbers_round_trip_as_python_writes_them(write, values) -> None:
    text = "id,price\n" + "".join(f"{index},{value!r}\n" for index, value in enumerate(values))
    assert numbers(write(text), rows=len(values), low=-1e300, high=1e300) == values


def naive(data: bytes, header: str) -> dict[int, float] | None:
    """What a lenient reader makes of a file: the meaning that a strict reader must not depart from."""
    try:
        rows = list(csv.reader(io.StringIO(data.decode("ascii"), newline=""), strict=True))
        found = {int(key): float(value) for key, value in rows[1:]}
    except (ValueError, csv.Error, IndexError):
        return None
    return found if ",".join(rows[0]) == header and len(found) == len(rows) - 1 else None


@quick
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=6),
    st.lists(
        st.tuples(st.integers(0, 60), st.sampled_from(["flip", "drop", "insert", "copy"]), st.binary(max_size=3))
    ).filter(bool),
)
def test_a_mutated_file_is_refused_or_means_what_it_says(write, labels, mutations) -> None:
    data = bytearray(("id,label\n" + "".join(f"{i},{v}\n" for i, v in enumerate(labels))).encode())
    for place, kind, junk in mutations:
        at = place % (len(data) + 1)
        if kind == "flip" and at < len(data):
            data[at : at + 1] = junk[:1] or b"0"
        elif kind == "drop":
            del data[at : at + 1]
        elif kind == "insert":
            data[at:at] = junk
        elif kind == "copy":
            data[at:at] = data[: place % 9]
    try:
        found = classes(write(bytes(data)), rows=len(labels), top=13)
    except InvalidSubmission:
        pass
    else:
        assert naive(bytes(data), "id,label") == dict(enumerate(found))


@quick
@given(st.binary(max_size=200))
def test_random_bytes_never_do_more_than_be_refused(write, data) -> None:
    folder = write(data)
    for call in (classes, numbers, lambda path: strict.read_texts(path, "s.csv", ids=[0])):
        try:
            call(folder)
        except InvalidSubmission:
            pass


def texts(folder: Path, rows: int = 1) -> list[str]:
    return strict.read_texts(folder, "s.csv", ids=range(rows))


printable = st.text(max_size=40).map(lambda text: unicodedata.normalize("NFC", text)).filter(str.isprintable)


@quick
@given(st.lists(printable, min_size=1, max_size=10), st.booleans(), st.randoms())
def test_texts_round_trip(write, values, escaped, random) -> None:
    lines = [json.dumps({"id": i, "text": text}, ensure_ascii=escaped) for i, text in enumerate(values)]
    random.shuffle(lines)
    assert texts(write("\n".join(lines)), rows=len(values)) == values


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('{"id":0}', "format"),
        ('{"id":0,"text":"a","more":1}', "format"),
        ('{"id":0,"id":0,"text":"a"}', "format"),
        ('{"id":true,"text":"a"}', "format"),
        ('{"id":0.0,"text":"a"}', "format"),
        ('{"id":"0","text":"a"}', "format"),
        ('{"id":0,"text":["a"]}', "format"),
        ('{"id":NaN,"text":"a"}', "format"),
        ('[["id",0],["text","a"]]', "format"),
        ("null", "format"),
        ('{"id":0,"text":"\\ud800"}', "format"),
        ('{"id":0,"text":"a\\nb"}', "format"),
        ('{"id":0,"text":"a\\u0000b"}', "format"),
        ('{"id":0,"text":"e\\u0301"}', "format"),
        ('{"id":1,"text":"a"}', "format"),
        ('{"id":' + "9" * 5000 + ',"text":"a"}', "format"),
        ("[" * 6000, "format"),
        ('{"id":0,"text":"' + "a" * 513 + '"}', "range"),
        ('{"id":0,"text":"' + "a " * 65 + '"}', "range"),
        ('{"id":0,"text":"' + "a" * 60_000 + '"}', "too_large"),
        ('{"id":0,"text":"a"}\n{"id":0,"text":"a"}', "format"),
    ],
)
def test_text_lines_that_are_not_exactly_as_asked_are_refused(
    write: Callable[[str], Path], line: str, code: str
) -> None:
    assert refused(lambda: texts(write(line))).code == code


# -- weights ---------------------------------------------------------------------------------------------------


def weights(folder: Path, shape: tuple[int, ...] = (2, 3)) -> list[object]:
    return strict.read_weights(folder, "s.csv", shape=shape, low=-10.0, high=10.0)


@pytest.mark.parametrize(
    ("text", "shape", "value"),
    [
        ("[1, -2.5, 1e1]", (3,), [1.0, -2.5, 10.0]),
        (" [[0,1,2],\n [3,4,5]] ", (2, 3), [[0, 1, 2], [3, 4, 5]]),
        ("[-0.0]", (1,), [-0.0]),
    ],
)
def test_weights_of_the_shape_are_read(write: Callable, text: str, shape: tuple[int, ...], value: object) -> None:
    assert weights(write(text), shape) == value


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("", "format", "not JSON"),
        ("[1, 2", "format", "not JSON"),
        ("[NaN, 1, 2]", "format", "NaN is not JSON"),
        ("[[0,1,2]]", "format", "a list of 1, expected a list of 2 lists of 3 numbers"),
        ("[[0,1,2],[3,4]]", "format", "a list of 2 at [1]"),
        ("[[0,1,2],[3,4,true]]", "format", "found True at [1][2]"),
        ("[[0,1,2],[3,4,null]]", "format", "found None at [1][2]"),
        ('[[0,1,2],[3,4,"5"]]', "format", "found '5' at [1][2]"),
        ("[[0,1,2],[3,4,[5]]]", "format", "at [1][2]"),
        ('{"0": [0,1,2], "1": [3,4,5]}', "format", "expected a list"),
        ("[[0,1,2],[3,4,11]]", "range", "found 11 at [1][2], expected a number from -10 to 10"),
        ("[[0,1,2],[3,4,1e999]]", "range", "found inf at [1][2]"),
        ("[" * 50_000, "too_large", "at most"),
        ("[" * 1_500, "format", "not JSON"),
    ],
)
def test_other_weights_are_refused_where_they_are_wrong(write: Callable, text: str, code: str, said: str) -> None:
    error = refused(lambda: weights(write(text)))
    assert (error.code, said in error.sentence) == (code, True), error.sentence


nested = st.recursive(
    st.one_of(st.floats(), st.integers(), st.booleans(), st.none(), st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@quick
@given(nested)
def test_weights_are_read_exactly_or_refused(write: Callable, value: object) -> None:
    folder = write(json.dumps(value))
    try:
        read = weights(folder)
    except InvalidSubmission:
        return
    assert read == value
    assert all(type(number) is float and -10 <= number <= 10 for row in read for number in row)
