"""Changing somebody else's file: whole or not at all, and what it was is kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlgym_mcp.connecting.files import UnchangeableFileError, change, read_text


def test_a_file_keeps_its_mode_its_links_and_a_copy_of_each_state(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles" / "s.json", tmp_path / "s.json"
    real.parent.mkdir()
    real.write_text("one")
    real.chmod(0o640)
    link.symlink_to(real)
    first = change(link, lambda text: text + " two")
    second = change(link, lambda text: text + " three")
    assert link.is_symlink()
    assert real.read_text() == "one two three"
    assert real.stat().st_mode & 0o777 == 0o640
    assert first.backup is not None
    assert second.backup is not None
    assert [p.read_text() for p in (first.backup, second.backup)] == ["one", "one two"]
    assert first.backup.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in real.parent.iterdir()) == ["s.json", "s.json.before-mlgym", "s.json.before-mlgym.2"]


def test_a_file_that_would_not_change_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("same")
    file.chmod(0o444)
    before = file.stat()
    assert not change(file, lambda text: text).changed
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_missing_file_is_made_with_its_folder_for_its_user_alone(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "f.json"
    assert read_text(file) is None
    done = change(file, lambda text: f"<{text}>")
    assert (done.changed, done.backup) == (True, None)
    assert file.read_text() == "<>"
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_byte_order_mark_and_the_ends_of_lines_stay(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"\xef\xbb\xbf{}\r\n")
    change(file, lambda text: text + "x\r\n")
    assert file.read_bytes() == b"\xef\xbb\xbf{}\r\nx\r\n"


def test_what_another_program_writes_meanwhile_is_not_lost(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("a")
    others = iter(["b", "c"])

    def edit(text: str) -> str:
        if (other := next(others, None)) is not None:
            file.write_text(other)
        return text + "!"

    done = change(file, edit)
    assert file.read_text() == "c!"
    assert done.backup is not None
    assert done.backup.read_text() == "c"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_program_that_never_stops_writing_is_waited_for_only_so_long(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("")

    def edit(text: str) -> str:
        file.write_text(text + ".")
        return text + "!"

    with pytest.raises(UnchangeableFileError, match="written by another program"):
        change(file, edit)
    assert "!" not in file.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("read-only", "is read-only"),
        ("folder", "is not a file"),
        ("pipe", "is not a file"),
        ("loop", "link"),
        ("latin", "is not UTF-8"),
        ("below a file", "cannot be"),
        ("huge", "larger than"),
    ],
)
def test_what_cannot_be_changed_is_told_and_left(tmp_path: Path, kind: str, told: str) -> None:
    file = tmp_path / "f"
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "loop":
        file.symlink_to(file)
    elif kind == "below a file":
        file.write_text("")
        file = file / "g"
    elif kind == "huge":
        with file.open("wb") as large:
            large.truncate(65 << 20)
    else:
        file.write_bytes(b"\xe9" if kind == "latin" else b"x")
        file.chmod(0o444 if kind == "read-only" else 0o600)
    with pytest.raises(UnchangeableFileError, match=told) as refused:
        change(file, lambda text: text + "y")
    assert str(tmp_path) in str(refused.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f"]


def test_an_edit_that_raises_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("x")
    with pytest.raises(ZeroDivisionError):
        change(file, lambda _: str(1 // 0))
    assert file.read_text() == "x"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
