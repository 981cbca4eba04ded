"""The page in a real browser, behind the protocol's own bridge: what it draws, what it says, what it does not do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from mlgym_mcp.serving.apps import FACTS, page
from tests.apps.app_host import AppHost, app_host
from tests.apps.conftest import on_the_wire, rendering
from tests.conformance.conftest import Node
from tests.serving.conftest import running_host, text_of
from tests.toy import CSV
from tests.web.browser import CHROMIUM

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

BUDGET = {
    "wall_s": 1800.0, "wall_left_s": 700.5, "calls": 40, "calls_left": 22, "validations": 10, "validations_left": 1,
    "cpu_s": None, "cpu_left_s": None, "idle_s": 600.0, "disk_mb": 512, "disk_left_mb": 500.0,
}  # fmt: skip
HOSTILE = "<script>window.hacked = 1</script><img src=/evil onerror='window.hacked = 2'></title></style>\u202e&lt;b&gt;"


@pytest.fixture(scope="module")
def chromium(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppHost]:
    with app_host(node.folder / "node_modules", tmp_path_factory.mktemp("chromium")) as made:
        yield made


@pytest.fixture
def host(chromium: AppHost) -> Iterator[AppHost]:
    """A host's page, with nothing shown; whatever is complained of, or is asked of the network, fails the test."""
    chromium.begin()
    chromium.server.asked.clear()
    yield chromium
    assert chromium.complaints == []
    assert chromium.ask("host.errors") == []
    assert set(chromium.server.asked) <= {"sandbox.html"}


def points(*scores: float, final: float | None = None) -> list[dict[str, Any]]:
    made = [{"seconds": 60.0 + 90 * i, "kind": "validate", "score": score} for i, score in enumerate(scores)]
    return made + ([] if final is None else [{"seconds": 1000.0, "kind": "submit", "score": final}])


def facts(*scores: float, final: float | None = None, **other: Any) -> dict[str, Any]:
    metric = {"name": "accuracy", "direction": "max", "unit": "", "baseline": 0.75, "optimal": 1.0}
    about = {"session_id": "", "title": "Clothes", "preset": "mini", "metric": metric, "state": "ready", "detail": "it"}
    given = points(*scores, final=final)
    return {**about, "budget": BUDGET, "seconds": 1100.0, "points": given, "left_out": 0, **other}


def status(told: dict[str, Any] | None = None, **other: Any) -> dict[str, Any]:
    """What ``status`` answers; ``told`` are the facts for the page."""
    data = {"state": "ready", "detail": "it", "budget": BUDGET, "warning": None, "running_jobs": [], "scores": 0}
    text = [{"type": "text", "text": "State: it."}]
    meta = {} if told is None else {"_meta": {FACTS: told}}
    return {"content": text, "structuredContent": {**data, "best_validation": None, **other}, **meta}


def score(told: dict[str, Any] | None = None, **other: Any) -> dict[str, Any]:
    """What ``validate`` answers."""
    data = {"kind": "validate", "valid": True, "metric": "accuracy", "score": 0.83, "standard_error": 0.012}
    data |= {"baseline": 0.75, "against_baseline": "better", "validations_left": 2, "details": {}, "message": "it"}
    meta = {} if told is None else {"_meta": {FACTS: told}}
    return {"content": [{"type": "text", "text": "it"}], "structuredContent": {**data, **other}, **meta}


def test_an_episode_is_seen_from_the_first_look_to_the_final_score(host: AppHost, own_home: Path, backend: str) -> None:
    results: list[dict[str, Any]] = []

    async def play() -> None:
        async with running_host(backend) as server:
            session = await server.create("toy")
            async with rendering(server.mcp_url(session)) as client:
                await text_of(client, "shell", command="true")
                for tool in ("status", "validate", "write", "validate", "status", "submit"):
                    if tool == "write":
                        await text_of(client, "write_file", path="submission.csv", content=CSV)
                    else:
                        results.append(on_the_wire(await client.call_tool(tool, {})))

    anyio.run(play)
    first, invalid, validated, later, submitted = results
    assert host.show(page(), {"theme": "light"}, serverTools={}) == {"name": "mlgym-score", "version": "1.0.0"}
    host.result(first)
    assert "Odd or even Preset mini Running Refresh Score none yet accuracy · higher is better" in host.words()
    assert host.inside("document.getElementById('chart').hidden")
    host.show(page())
    host.result(invalid)
    assert invalid["structuredContent"]["reason"] in host.words()
    assert host.inside("document.querySelectorAll('[role=meter]').length") == 4
    host.show(page())
    host.result(validated)
    value = validated["structuredContent"]["score"]
    assert f"Validation score {value:g} ±" in host.words()
    assert "baseline 0.5" in host.words()
    host.show(page())
    host.result(later)
    assert f"Best validation score {value:g} ±" in host.words()
    assert host.inside("document.querySelectorAll('circle.validate').length") == 1
    host.show(page())
    host.result(submitted)
    final = submitted["structuredContent"]["score"]
    assert f"Over Test score {final:g}" in host.words()
    assert "Budget left at the end" in host.words()
    assert host.inside("document.querySelector('path.final title').textContent").startswith(f"Test {final:g} after")


def test_it_draws_scores_over_time_and_the_budget_for_eyes_and_for_readers(host: AppHost) -> None:
    host.show(page())
    jobs = [{"id": "a", "command": "x", "seconds": 75.0}, {"id": "b", "command": "y", "seconds": 3.0}]
    told = facts(0.61, 0.8, 0.7, final=0.78, left_out=4)
    host.result(status(told, warning="Little is left: 1 validation.", running_jobs=jobs))
    label = host.inside("document.querySelector('svg').getAttribute('aria-label')")
    assert label == "accuracy over time: 4 scores, from 0.61 to 0.8, baseline 0.75."
    heights = host.inside("[...document.querySelectorAll('circle')].map((each) => +each.getAttribute('cy'))")
    assert heights[0] > heights[2] > heights[1], "more is higher"
    assert host.inside("document.querySelectorAll('line.baseline').length") == 1
    meters = host.inside(
        "[...document.querySelectorAll('[role=meter]')].map((each) =>"
        " [each.ariaLabel, each.getAttribute('aria-valuetext'), each.ariaValueNow, each.ariaValueMax, each.className])"
    )
    assert meters == [
        ["Tool calls", "22 of 40", "22", "40", "meter"],
        ["Validations", "1 of 10", "1", "10", "meter low"],
        ["Wall time", "11.7 of 30 min", "700.5", "1800", "meter"],
        ["Disk", "500 of 512 MiB", "500", "512", "meter"],
    ]
    assert "Little is left: 1 validation. 2 jobs running, the longest for 75 s" in host.words()
    rows = host.inside("[...document.querySelectorAll('tbody tr')].map((row) => row.innerText || row.textContent)")
    assert rows[0] == "4 older scores left out"
    assert [row.replace("\t", "") for row in rows[1:]] == [
        "60 sValidation0.61", "2.5 minValidation0.8", "4 minValidation0.7", "16.7 minTest0.78",
    ]  # fmt: skip


def test_less_is_better_where_the_metric_says_so(host: AppHost) -> None:
    host.show(page())
    told = facts(3.0, 2.0, 2.5)
    told["metric"] |= {"name": "perplexity", "direction": "min", "baseline": 2.25}
    host.result(status(told))
    assert "Best validation score 2 perplexity · lower is better · baseline 2.25" in host.words()
    steps = host.inside("document.querySelector('path.best').getAttribute('d')")
    assert steps.count("V") == 1


def test_without_the_facts_it_shows_what_the_structured_result_has(host: AppHost) -> None:
    host.show(page())
    host.result(score(against_baseline="worse", score=0.7))
    assert "Validation score 0.7 ± 0.012 Worse accuracy · baseline 0.75 Budget left Validations 2 left" in host.words()
    host.show(page())
    host.result(status(best_validation=score()["structuredContent"]))
    assert "Running" in host.words()
    assert "Best validation score 0.83 ± 0.012 Better" in host.words()
    host.show(page())
    host.result({"content": [{"type": "text", "text": "There is no session 'x' here."}], "isError": True})
    assert host.words() == "MLGym There is no session 'x' here."
    host.show(page())
    host.result({"content": []})
    assert host.words() == "MLGym The tool answered nothing that can be shown."


def test_a_refusal_a_cancelled_call_and_a_wait_are_told(host: AppHost) -> None:
    host.show(page())
    assert host.words() == "MLGym Waiting for the result."
    host.ask("host.bridge.sendToolCancelled({reason: 'by the user'}).then(() => 1)")
    host.wait_inside("document.getElementById('said').textContent === 'The call was cancelled: by the user'")
    host.show(page())
    host.result(score(facts(0.8), valid=False, score=None, code="refused", reason="Grading goes on."))
    assert "Grading goes on." in host.words()
    assert host.inside("document.getElementById('reason').className") == "problem"
    assert "Best validation score 0.8" in host.words()


def test_light_dark_narrow_and_the_hosts_own_colours_can_be_read_and_fit(host: AppHost) -> None:
    told = facts(0.61, 0.8, 0.7, final=0.78, title="A very long title of a task " * 8)
    shown = status(told, warning="Little is left.", best_validation=score()["structuredContent"])
    seen = {}
    for theme, variables in (("light", {}), ("dark", {}), ("dark", {"--color-background-primary": "rgb(0, 0, 90)"})):
        for width in (720, 280):
            host.ask(f"document.body.style.width = '{width}px'")
            host.show(page(), {"theme": theme, "styles": {"variables": variables}})
            host.result(shown)
            paper, poor = host.inside(_CONTRAST)
            assert poor == []
            seen[theme, bool(variables)] = paper
            assert host.inside("document.documentElement.scrollWidth <= innerWidth"), (theme, width)
            height = host.inside("Math.ceil(document.body.getBoundingClientRect().height)")
            host.wait(f"host.sizes.at(-1).height === {height}")
            assert host.inside(
                "[...document.querySelectorAll('svg text')].map((each) => each.getBBox())"
                ".every((box) => box.x >= 0 && box.x + box.width <= innerWidth)"
            )
    assert len(set(seen.values())) == 3
    assert seen["dark", True] == "rgb(0, 0, 90)"
    host.ask("document.body.style.width = ''")
    host.ask("host.bridge.setHostContext({theme: 'light'})")
    host.wait_inside("getComputedStyle(document.body).colorScheme === 'light'")
    host.ask("host.frame.style.width = '500px'")
    host.wait_inside("innerWidth < 510 && document.querySelector('svg').viewBox.baseVal.width < 510")


_CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const light = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((each) => each / 255);
    const [r, g, b] = parts.map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const found = getComputedStyle(each).backgroundColor;
      if (!/^rgba.*, 0\\)$/.test(found)) return found;
    }
  };
  const poor = [];
  for (const element of document.querySelectorAll('main *')) {
    const own = [...element.childNodes].some((each) => each.nodeType === 3 && each.data.trim());
    if (!own || !element.checkVisibility() || element.tagName === 'title') continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(element.ownerSVGElement ? style.fill : style.color), light(behind(element))];
    if ((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5) poor.push(element.outerHTML);
  }
  return [getComputedStyle(document.body).backgroundColor, poor];
})()"""


def test_keys_reach_all_that_can_be_used_and_refresh_asks_for_the_status(host: AppHost) -> None:
    host.show(page(), serverTools={})
    host.result(score(facts(0.83, session_id="abc12345")), session_id="older")
    host.ask(f"host.answers.push({json.dumps(status(facts(0.83, 0.9), warning='Now.'))})")
    host.ask("host.frame.focus()")
    host.press("Tab")
    host.wait_inside("document.activeElement.id === 'refresh'")
    host.press("Enter")
    host.wait_inside("document.getElementById('said').textContent === 'Up to date.'")
    assert host.ask("host.asked") == [{"name": "status", "arguments": {"session_id": "abc12345"}}]
    assert "Best validation score 0.9" in host.words()
    host.press("Tab")
    host.wait_inside("document.activeElement.tagName === 'SUMMARY'")
    host.press("Enter", "Tab")
    host.wait_inside("document.activeElement.className === 'scroll'")
    host.inside("document.getElementById('refresh').click()")
    host.wait_inside("document.getElementById('said').textContent.startsWith('The status could not be had: ')")
    assert "the host refuses" in host.words()
    assert not host.inside("document.getElementById('refresh').disabled")
    host.show(page())
    host.result(score())
    assert host.inside("document.getElementById('refresh').hidden"), "this host passes no calls on"


def test_whatever_is_in_the_results_is_text(host: AppHost) -> None:
    variables = {
        "--color-background-primary": "url(/evil)",
        "--color-text-primary": "red; background: url(/evil)",
        "--color-text-info": "\\75rl(/evil)",
        "--font-sans": "x} body{background:url(/evil)",
        "background-image": "url(/evil)",
    }
    host.show(page(), {"styles": {"variables": variables, "css": {"fonts": "@import '/evil';"}}})
    metric = {"name": HOSTILE, "direction": HOSTILE, "unit": HOSTILE, "baseline": HOSTILE}
    told = facts(0.8, title=HOSTILE, preset=HOSTILE, metric=metric, state=HOSTILE, detail=HOSTILE, session_id=HOSTILE)
    told["points"] += [{"seconds": 1, "kind": HOSTILE, "score": 0.1}, {"seconds": 1, "kind": "toString", "score": 1}]
    host.result(
        score(
            told, kind=HOSTILE, valid=False, metric=HOSTILE, code=HOSTILE, reason=HOSTILE * 9, against_baseline=HOSTILE
        )
    )
    assert HOSTILE[:40] in host.words()
    host.result(status(told, warning=HOSTILE, running_jobs=[{"command": HOSTILE, "seconds": HOSTILE}, HOSTILE]))
    assert "\u202e" not in host.words()
    assert host.inside("document.querySelectorAll('main script, main img, main b:not(#value), main style').length") == 0
    assert host.inside("document.querySelectorAll('circle').length") == 1
    assert host.inside("window.hacked") is None
    assert host.inside("document.title") == "Score and budget"
    assert host.inside("document.documentElement.style.length") == 0


def test_whatever_shape_a_result_has_the_page_goes_on(host: AppHost) -> None:
    host.show(page())
    junk: list[Any] = [None, 0, "x", [], [[]], {"a": 1}, True]
    for value in junk:
        given = dict.fromkeys(facts(), value)
        host.result({"content": [], "structuredContent": {"state": value, "valid": value}, "_meta": {FACTS: given}})
    host.result(
        status(facts(points=[None, 1, {}, {"seconds": "1", "score": None}, {"seconds": -5, "kind": "validate"}]))
    )
    assert host.inside("document.getElementById('chart').hidden")
    huge = [{"seconds": float(i), "kind": "validate", "score": i % 7 * 10.0 ** (i % 300)} for i in range(20_000)]
    host.result(status(facts(points=huge, budget={**BUDGET, "calls_left": 1e12, "wall_s": -1, "disk_mb": 0})))
    assert host.inside("document.querySelectorAll('circle').length") == 500
    assert host.inside("[...document.querySelectorAll('circle')].every((each) => isFinite(each.cy.baseVal.value))")
    assert host.inside("document.querySelector('[role=meter]').ariaValueNow") == "40"
    host.result(status(facts(1e308, -1e308, 0.5)))
    assert host.inside("document.querySelectorAll('circle').length") == 1
    same = [{"seconds": 0.0, "kind": "validate", "score": 0.0}] * 3
    host.result(status(facts(points=same, seconds=0.0, metric={"name": "x", "baseline": 0.0})))
    assert host.inside("[...document.querySelectorAll('circle')].every((each) => isFinite(each.cx.baseVal.value))")
    host.result(status(facts(title="word" * 9999, points=points(1e299, -1e299), preset="\x1b[31m\x00red")))
    assert host.inside("document.getElementById('title').textContent.length") == 300
    assert "Preset [31m red" in host.words()


def test_only_the_host_is_listened_to(host: AppHost) -> None:
    host.show(page())
    host.result(score(facts(0.8)))
    message = {"jsonrpc": "2.0", "method": "ui/notifications/tool-result", "params": score(facts(0.9, title="Forged"))}
    forged = json.dumps(message)
    host.ask(f"host.frame.contentWindow[0].postMessage({forged}, '*')")  # from a window that is not its parent
    host.inside(f"window.postMessage({forged}, '*')")
    sandbox = f"http://localhost:{host.server.server_port}"
    for source, origin in (("window", sandbox), ("window.top", sandbox), ("window.parent", "https://evil.example")):
        event = f"{{source: {source}, origin: '{origin}', data: {forged}}}"
        host.inside(f"window.dispatchEvent(new MessageEvent('message', {event}))")
    wrong: list[Any] = [None, 1, "x", [], {}, {"jsonrpc": "1.0"}, {**message, "jsonrpc": "1.0"}, {**message, "id": 7}]
    wrong += [{"jsonrpc": "2.0", "id": 1, "result": score(title="Forged")}, {"jsonrpc": "2.0", "method": "x/y"}]
    for each in wrong:
        host.ask(f"host.frame.contentWindow.postMessage({json.dumps(each)}, '*')")
    refused = host.ask(
        "host.bridge.request({method: 'tools/list', params: {}}).then(() => 'answered', (error) => error.code)"
    )
    assert refused == -32601
    assert host.ask("host.bridge.teardownResource({}).then((answer) => JSON.stringify(answer))") == "{}"
    assert host.inside("document.getElementById('title').textContent") == "Clothes"
    assert host.ask("host.sizes.length") >= 1
    host.ask("host.errors.length = 0")  # the bridge's own words about answers that it never asked for


def test_the_pages_own_policy_holds_where_the_hosts_does_not(chromium: AppHost) -> None:
    chromium.begin(lenient=True)
    chromium.show(page())
    chromium.result(score(facts(0.8)))
    evil = json.dumps(f"{chromium.address}/evil")
    assert chromium.inside(f"fetch({evil}).then(() => 'came', () => 'refused')") == "refused"
    image = f"Object.assign(new Image(), {{src: {evil}}})"
    assert chromium.inside(f"{image}.decode().then(() => 'came', () => 'refused')") == "refused"
    for tag, text in (("script", "window.hacked = 1"), ("style", "main { display: none }")):
        chromium.inside(
            f"document.body.append(Object.assign(document.createElement('{tag}'), {{textContent: {json.dumps(text)}}}))"
        )
    assert chromium.inside("window.hacked") is None
    assert chromium.inside("getComputedStyle(document.querySelector('main')).display") == "grid"
    assert "evil" not in chromium.server.asked
