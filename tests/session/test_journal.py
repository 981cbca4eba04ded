"""The journal: whole lines, checked on reading, nothing acknowledged is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgym_mcp.session.journal import FILE_NAME, Journal, JournalError, read_journal

pytestmark = pytest.mark.anyio

fields = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=5),
    st.none() | st.booleans() | st.integers() | st.text(max_size=50),
    max_size=4,
)


def filled(folder: Path, count: int = 5) -> Path:
    journal = Journal(folder)
    for i in range(count):
        journal.append("call", n=i)
    journal.close()
    return folder / FILE_NAME


@given(st.lists(fields, max_size=8))
def test_what_was_appended_is_read_back_in_order(tmp_path_factory: pytest.TempPathFactory, many: list[dict]) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder)
    for each in many:
        journal.append("x", **each)
    journal.close()
    read = list(read_journal(folder))
    assert [dict(event.fields) for event in read] == many
    assert [event.seq for event in read] == list(range(len(many)))


def test_a_torn_last_line_is_left_out_and_the_journal_goes_on_after_it(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"seq":5,"t":1,"type":"res')
    assert len(list(read_journal(tmp_path))) == 5
    journal = Journal(tmp_path)
    journal.append("call", n=5)
    journal.close()
    assert [event["n"] for event in read_journal(tmp_path)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("damage", ["change", "remove", "swap"])
def test_a_line_changed_removed_or_moved_is_noticed(tmp_path: Path, damage: str) -> None:
    path = filled(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    if damage == "change":
        lines[2] = lines[2].replace(b'"n":2', b'"n":9')
    elif damage == "remove":
        del lines[2]
    else:
        lines[1], lines[2] = lines[2], lines[1]
    path.write_bytes(b"".join(lines))
    with pytest.raises(JournalError, match="damaged at event"):
        list(read_journal(tmp_path))


def test_a_score_cannot_be_edited_with_its_own_checksum_alone(tmp_path: Path) -> None:
    import zlib

    path = filled(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    event = json.loads(lines[2])
    event.pop("sum")
    body = json.dumps(event | {"n": 99}, separators=(",", ":"))
    lines[2] = f'{body[:-1]},"sum":"{zlib.crc32(body.encode()):08x}"}}\n'.encode()
    path.write_bytes(b"".join(lines))
    with pytest.raises(JournalError):
        list(read_journal(tmp_path))


def test_a_full_disk_is_one_sentence_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.append("call", n=0)
    real = os.write

    def full(fd: int, data: bytes) -> int:
        return real(fd, data[:10])

    with monkeypatch.context() as patch:
        patch.setattr("mlgym_mcp.session.journal.os.write", full)
        with pytest.raises(JournalError, match="no space left on device; free disk space"):
            journal.append("call", n=1)
    journal.append("call", n=2)
    journal.close()
    assert [event["n"] for event in read_journal(tmp_path)] == [0, 2]


async def test_a_durable_event_is_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    await journal.append_durable("score", metrics={"accuracy": 0.5})
    assert [event.type for event in read_journal(tmp_path)] == ["score"]
    journal.close()


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mlgym_mcp.session.journal import Journal\n"
        "j = Journal(Path(sys.argv[1])); n = 0\n"
        "while True:\n    j.append('call', n=n); sys.stdout.write(f'{n}\\n'); sys.stdout.flush(); n += 1\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(200)]
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split(b"\n")[:-1]
    process.stdout.close()
    process.wait()
    last = int(rest[-1]) if rest else acknowledged[-1]
    written = [event["n"] for event in read_journal(tmp_path)]
    assert written[: last + 1] == list(range(last + 1))
