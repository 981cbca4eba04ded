"""Pictures and pages: drawn of whatever attempts there are, with whatever names."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from mlgym_mcp.records.attempts import Usage
from mlgym_mcp.records.html import render
from mlgym_mcp.records.plots import MissingExtraError, draw_scores, palette, pictures, rendered, style, write_pictures
from mlgym_mcp.records.report import Report, make_report
from tests.records.written import attempt

EVIL = ("<script>alert(1)</script>", "_hidden", r"$\frac{1$ --><b>", "模型 🙂", '" onload="x', "{{ 7 * 7 }}")


def a_report(**more: object) -> Report:
    runs = [
        attempt(m, 0.6 + 0.01 * i, seed=s, validations=(0.5, 0.55), usage=Usage(100, 10, 0.1 * (i + 1)))
        for i, m in enumerate(EVIL)
        for s in range(2)
    ]
    runs.append(attempt("wild", -3e13, validations=(-1e13,)))
    runs.append(attempt("fails", None, metric="", baseline=None))
    return make_report(runs, None, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def page() -> str:
    return render(a_report(published=True, problems=["<i>odd</i>"]))


class Tags(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_page_runs_nothing_loads_nothing_and_shows_names_as_they_are(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    assert not {"script", "img", "link", "iframe", "object", "b", "i"} & set(tags.tags)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    targets = [value or "" for name, value in tags.attributes if name in ("href", "xlink:href", "src")]
    assert targets
    assert all(target.startswith("#") for target in targets)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    for name in EVIL:
        assert name in tags.text
    assert "<i>odd</i>" in tags.text
    assert page.count("<svg") == 8


def test_a_pages_links_lead_somewhere_and_ids_are_unique(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    ids = [value for name, value in tags.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    anchors = {value for name, value in tags.attributes if name in ("href", "xlink:href")}
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | {value.removeprefix("#") for value in anchors if value}
    assert used <= set(ids)


def test_a_page_is_readable_in_dark_and_light(page: str) -> None:
    def colours(block: str) -> dict[str, str]:
        return dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    day, night = page.split("@media (prefers-color-scheme: dark)", 1)
    for block in (day, night.split("* {", 1)[0]):
        known = colours(block)
        assert {"paper", "ink", "muted", "link", "warn", *(f"s{i}" for i in range(8))} <= set(known)
        for name, colour in known.items():
            if name in ("paper", "shade", "grid"):
                continue
            a, b = sorted((light(colour), light(known["paper"])))
            needed = 3.0 if re.fullmatch(r"s\d", name) else 4.5
            assert (b + 0.05) / (a + 0.05) >= needed, f"{name} {colour} on {known['paper']}"
    svg = page[page.index("<svg") : page.rindex("</svg>")]
    assert not re.findall(r"(?:fill|stroke): #", svg)


def test_pictures_are_written_as_png_and_svg(tmp_path: Path) -> None:
    files = write_pictures(a_report(), tmp_path / "pictures")
    names = {path.name for path in files}
    assert {"profiles.png", "aup.svg", "normalised.png", "cost.svg", "scores-toy.png", "scores-toy.svg"} <= names
    for path in files:
        data = path.read_bytes()
        if path.suffix == ".png":
            assert data.startswith(b"\x89PNG")
        else:
            ET.fromstring(data)  # whole XML, whatever the names


def test_one_wild_score_does_not_flatten_the_others() -> None:
    report = a_report()
    with style():
        figure = draw_scores(report.boards[0], palette(["a"]))
        low, high = figure.axes[0].get_ylim()
        assert -1 < low < 0.5 < high < 1.5
        assert "2 scores are off the scale" in figure.axes[0].get_xlabel()


def test_the_same_picture_has_the_same_bytes() -> None:
    report = a_report()
    with style():
        name, draw = next(pictures(report))
        assert name == "profiles"
        assert rendered(draw(), "svg") == rendered(draw(), "svg")


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [attempt("fails", None, metric="", baseline=None)],
        [attempt("a", 0.5)],
        [attempt("a", -1.0, baseline=None)],
        [attempt("a", 0.0, baseline=0.0, seconds=0.0, calls=0)],
        [attempt("only validates", None, validations=(0.7,))],
    ],
)
def test_reports_of_next_to_nothing_are_drawn_too(runs: list) -> None:
    assert "mlgym-mcp report" in render(make_report(runs, None))


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mlgym-mcp\[report\]'"):
        render(make_report([attempt()], None))
