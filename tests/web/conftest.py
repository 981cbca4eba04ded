"""Episodes with everything in them, and the pages over them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlgym_mcp.session.journal import Journal
from mlgym_mcp.web.app import make_app
from mlgym_mcp.web.shelf import Shelf, key_of
from tests.records.written import score, write_episode

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\n"
    '**bold** [link](javascript:window.hacked=3) </pre></article><a href="javascript:window.hacked=4">x</a>\n'
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J \u202eturned round\u202c \ud800 \x00 {{ 7 * 7 }} ${7*7} &lt;\n"
)
"""What an agent's program may print."""

Client = Callable[[], Any]


@asynccontextmanager
async def looking(*roots: Path, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the pages over some folders, in this process."""
    shelf = Shelf(roots)
    headers = options.pop("headers", {})
    try:
        transport = httpx.ASGITransport(make_app(shelf, **options))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8642", headers=headers) as client:
            yield client
    finally:
        shelf.close()


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLGYM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five episodes of two agents."""
    place = tmp_path / "episodes"
    for i, (agent, value) in enumerate((("good", 0.9), ("good", 0.8), ("fair", 0.6))):
        write_episode(place, f"e{i}", submitted=value, seed=i, agent=agent, sweep="monday", attempt=i)
    write_episode(place, "bad", submitted=None, outcome="invalid_submission", agent="fair", task="other")
    write_episode(place, "open", submitted=None, outcome=None, agent="good")
    return place


def write_hostile(place: Path, text: str = HOSTILE) -> Path:
    """An episode whose every free text is an attack."""
    place.mkdir(parents=True)
    folder = place / "<b>hostile"
    folder.mkdir()
    journal = Journal(folder)
    metadata = {"agent": text, "sweep": text, "attempt": text}
    digests = {"session": "a" * 64, "token": "b" * 64}
    journal.append(
        "session", task=text, preset=text, seed=0, sandbox=text, budget={}, metadata=metadata, digests=digests
    )
    call = journal.append("call", tool=text, arguments={text: text, "long": text * 40})
    journal.append("result", call=call.seq, seconds=0.1, text=text * 40, meta={"job_id": text, "state": text})
    shell = journal.append("call", tool="shell", arguments={"command": text})
    meta = {"job_id": "j1", "state": text, "exit_code": 0}
    journal.append("result", call=shell.seq, seconds=0.1, text=text, meta=meta)
    for kind in ("validate", "submit"):
        told = {"private": {"labels": "secret-labels"}, "public": {"note": text}, "primary": text}
        journal.append("score", **(score(kind, 0.7) | told | {"metrics": {text: 0.7}, "se": {}}))
    journal.append("score", **(score("validate", None) | {"reason": text, "code": text}))
    journal.append(text[:9], anything=text)
    journal.append("grader_error", kind=text, error=text)
    journal.append("end", outcome=text, reason=text, score=None, spent=None)
    journal.close()
    return folder


def address(folder: Path) -> str:
    return f"/episodes/{key_of(folder.resolve())}"


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def elements(page: str, tag: str | None = None) -> list[tuple[str, dict[str, str | None]]]:
    """The elements of a page, as a browser finds them."""
    parser = _Elements()
    parser.feed(page)
    return [each for each in parser.elements if tag in (None, each[0])]


def words(page: str) -> str:
    """The text of a page."""
    parser = _Elements()
    parser.feed(page)
    return " ".join(" ".join(parser.words).split())
