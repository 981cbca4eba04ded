"""The compiled runner is one file for all sandboxes that start at the same time."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlgym_sandbox.inside import compiled_runner


def test_starts_at_the_same_time_never_replace_each_others_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLGYM_HOME", str(tmp_path))
    first = compiled_runner()
    inode = first.stat().st_ino
    exists = Path.exists
    with monkeypatch.context() as late:  # this start looked before the first one was done
        late.setattr(Path, "exists", lambda path: path != first and exists(path))
        assert compiled_runner() == first
    assert first.stat().st_ino == inode, "a file that is being mounted was unlinked"
    assert [path.name for path in first.parent.iterdir()] == [first.name]
