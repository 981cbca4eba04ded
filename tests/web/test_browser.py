"""The pages in a real browser: keys, live pages, plots, dark and light, and nothing that it complains of."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlgym_mcp.session.journal import Journal
from tests.records.written import score, write_episode
from tests.web.browser import CHROMIUM, Browser
from tests.web.conftest import HOSTILE, address, write_hostile

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@contextmanager
def viewing(root: Path, *options: str) -> Iterator[str]:
    """The command itself; yields its address."""
    command = [sys.executable, "-m", "mlgym_mcp.cli.entry", "view", str(root), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert process.stdout is not None
        found = re.search(r"http://[^\s/]+", process.stdout.readline())
        assert found
        yield found[0]
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as made:
        yield made


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    yield chromium
    chromium.rest()


def test_everything_is_reached_by_keys_and_live_pages_go_on_by_themselves(root: Path, browser: Browser) -> None:
    with viewing(root) as url:
        browser.open(url)
        assert browser.ask("document.querySelectorAll('[data-item]').length") == 5
        browser.press("Tab")
        assert browser.ask("document.activeElement.className") == "skip"
        browser.press("j", "j", "k", "j")
        assert browser.ask("document.activeElement.textContent") == "bad"
        browser.press("/")
        assert browser.ask("document.activeElement.name") == "text"
        browser.press("e", "2", "Enter")
        browser.wait("location.search === '?text=e2' && document.body.dataset.drawn")
        assert browser.ask("document.querySelectorAll('[data-item]').length") == 1
        browser.press("j", "Enter")
        browser.wait("document.querySelector('.chart .submission') && document.body.dataset.drawn")
        browser.press("?")
        assert browser.ask("document.getElementById('help').open")
        browser.press("Enter")
        browser.wait("!document.getElementById('help').open")
        browser.press("u")
        browser.wait("document.querySelector('table.list') !== null")

        journal = Journal(root / "open")
        browser.open(url + address(root / "open"))
        browser.wait("document.querySelector('[data-state]').textContent.startsWith('Following')")
        before = browser.ask("document.querySelectorAll('article').length")
        call = journal.append("call", tool="shell", arguments={"command": HOSTILE})
        browser.wait(f"document.querySelectorAll('article').length === {before + 1}")
        browser.wait(f"document.getElementById('e{call.seq}').classList.contains('live')")
        journal.append("result", call=call.seq, seconds=0.1, text="line\n" * 100 + HOSTILE)
        browser.wait(f"!document.getElementById('e{call.seq}').classList.contains('live')")
        browser.ask(f"document.getElementById('e{call.seq}').focus()")
        browser.press("Enter")
        assert browser.ask(f"document.querySelector('#e{call.seq} details').open")
        journal.append("score", **score("validate", 0.8))
        browser.wait("document.querySelectorAll('[data-chart] .validation').length === 2")
        journal.append("end", outcome="scored", reason="over", score=None, spent=None)
        browser.wait("document.querySelector('[data-state]').textContent.includes('has ended')")
        assert browser.ask("window.hacked === undefined")
        journal.close()
        assert not browser.complaints


def test_standings_are_drawn_and_dark_is_dark(root: Path, browser: Browser) -> None:
    with viewing(root) as url:
        for scheme, dark in (("dark", True), ("light", False)):
            browser.scheme(scheme)
            browser.open(f"{url}/report?sweep=monday")
            assert browser.ask("document.querySelectorAll('figure.plot svg').length") == 5
            line = "document.querySelector('.plot svg [id*=line2d] path')"
            assert browser.ask(f"getComputedStyle({line}).stroke") not in ("none", "")
            shade = browser.ask("getComputedStyle(document.body).backgroundColor")
            assert (int(re.findall(r"\d+", shade)[0]) < 60) is dark
        assert not browser.complaints


def test_a_hostile_episode_does_nothing_in_a_browser(tmp_path: Path, browser: Browser) -> None:
    folder = write_hostile(tmp_path / "r")
    with viewing(tmp_path / "r") as url:
        for path in ("/", address(folder), f"{address(folder)}/jobs/j1", "/report"):
            browser.open(url + path)
            browser.ask("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
            assert browser.ask("window.hacked === undefined")
            assert browser.ask("document.documentElement.scrollWidth <= innerWidth"), path
    assert not browser.complaints


def test_a_browser_without_the_token_is_asked_for_it(tmp_path: Path, browser: Browser) -> None:
    write_episode(tmp_path / "r", "secret")
    file = tmp_path / "token"
    file.write_text("a-token-of-some-length\n")
    with viewing(tmp_path / "r", "--token-file", str(file)) as url:
        browser.open(url)
        assert "secret" not in browser.ask("document.body.textContent")
        browser.ask("document.querySelector('[name=token]').value = 'a-token-of-some-length'")
        browser.ask("document.querySelector('form.filters').requestSubmit()")
        browser.wait("document.body.textContent.includes('secret')")
