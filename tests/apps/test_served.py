"""What clients are given of the page: all of it if they show pages, else nothing that they did not have before."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.extension import advertise
from mcp.server.apps import APP_MIME_TYPE, EXTENSION_ID

from mlgym_mcp.serving.apps import FACTS, PAGE, PointView, ScoreFacts, facts_of, page
from mlgym_mcp.session.journal import FILE_NAME, read_journal
from tests.apps.conftest import coarser, on_the_wire, rendering
from tests.attacks.conftest import gated_grader
from tests.serving.conftest import episode_folder, running_host, text_of
from tests.serving.test_desk import at, desk_host
from tests.serving.test_long_calls import TasksClient, begin, state_of
from tests.toy import CSV, make_toy

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]
ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])
SHOWN = {"status", "validate", "submit"}


@ERAS
async def test_a_host_that_shows_pages_finds_one_with_three_tools_and_reads_it(mode: str, backend: str) -> None:
    async with running_host(backend) as host:
        session = await host.create("toy")
        async with rendering(host.mcp_url(session), mode) as client:
            if mode == "auto":  # earlier protocols have no such field in what servers say of themselves
                assert client.server_capabilities.extensions[EXTENSION_ID] == {}
            tools = (await client.list_tools()).tools
            assert {tool.name for tool in tools if (tool.meta or {}).get("ui") == {"resourceUri": PAGE}} == SHOWN
            assert {tool.name for tool in tools if "ui" in (tool.meta or {})} == SHOWN
            (listed,) = [each for each in (await client.list_resources()).resources if each.uri == PAGE]
            assert listed.mime_type == APP_MIME_TYPE
            (content,) = (await client.read_resource(PAGE)).contents
    assert content.mime_type == APP_MIME_TYPE
    assert content.meta == {"ui": {"prefersBorder": True}}
    assert content.text == page()


async def test_all_others_see_what_they_ever_saw(backend: str) -> None:
    strange: list[dict[str, Any]] = [{}, {"mimeTypes": "text/html"}, {"mimeTypes": ["text/html", 3, None]}]
    no_apps = [None, *([advertise(EXTENSION_ID, settings)] for settings in strange)]
    async with running_host(backend) as host:
        session = await host.create("toy")
        url = host.mcp_url(session)
        for mode, extensions in itertools.product(("auto", "legacy"), no_apps):
            async with Client(url, mode=mode, extensions=extensions) as client:
                names = {each.uri for each in (await client.list_resources()).resources}
                assert names == {"task://instruction", "task://status", "task://scores", "task://log"}
                assert not (await client.list_resource_templates()).resource_templates
                for tool in (await client.list_tools()).tools:
                    assert set(tool.meta) - {"ui"} == {"anthropic/alwaysLoad"}
                plain = await client.call_tool("status", {})
                assert not {key for key in plain.meta or {} if key.startswith("dev.mlgym")}
        async with rendering(url) as client:
            shown = await client.call_tool("status", {})
            assert FACTS not in ((await client.call_tool("get_task", {})).meta or {})
        assert set(plain.structured_content) == set(shown.structured_content)
        assert FACTS not in json.dumps(shown.structured_content) + shown.content[0].text
        async with Client(url, mode="legacy") as client:
            await text_of(client, "write_file", path="submission.csv", content=CSV)
            for name in ("validate", "submit"):
                result = await client.call_tool(name, {})
                assert not {key for key in result.meta or {} if key.startswith("dev.mlgym")}
                assert result.structured_content["valid"]
                assert "score: accuracy" in result.content[0].text


@ERAS
async def test_the_facts_are_the_scores_as_the_agent_saw_them_the_budget_and_the_end(
    mode: str, backend: str, tmp_path: Path
) -> None:
    coarser(tmp_path / "tasks")
    async with running_host(backend) as host:
        session = await host.create("toy", budget={"calls": 9})
        async with rendering(host.mcp_url(session), mode) as client:
            before = (await client.call_tool("status", {})).meta[FACTS]
            assert (before["points"], before["session_id"], before["left_out"]) == ([], "", 0)
            invalid = await client.call_tool("validate", {})
            assert invalid.structured_content["valid"] is False
            assert invalid.meta[FACTS]["points"] == []
            seen = []
            rows = CSV.splitlines()
            for ones in (0, 1, 2):  # each is 0.05 from the one before
                rows[1:] = [f"{i},{int(i < ones)}" for i in range(40)]
                await text_of(client, "write_file", path="submission.csv", content="\n".join(rows) + "\n")
                result = await client.call_tool("validate", {})
                seen.append(result.structured_content["score"])
                facts = result.meta[FACTS]
                assert [point["score"] for point in facts["points"]] == seen
            refused = await client.call_tool("validate", {})
            assert refused.structured_content["code"] == "refused"
            assert refused.meta["refused"] is True
            assert len(refused.meta[FACTS]["points"]) == 3
            final = await client.call_tool("submit", {})
            after = await client.call_tool("submit", {})
        await session.wait_ended()
    told = final.meta[FACTS]
    assert after.meta[FACTS] == told
    assert (told["title"], told["preset"], told["state"]) == ("Odd or even", "mini", "over")
    assert told["metric"]["baseline"] == 0.5
    assert told["points"][-1] == {
        "seconds": told["points"][-1]["seconds"],
        "kind": "submit",
        "score": final.structured_content["score"],
    }
    assert told["budget"]["calls"] == 9
    assert told["budget"]["validations_left"] == 0
    seconds = [point["seconds"] for point in told["points"]]
    assert 0.0 <= seconds[0] <= seconds[-1] <= told["seconds"] < 300.0
    events = [event for event in read_journal(episode_folder(session)) if event.type == "score" and event["valid"]]
    exact = [event["metrics"]["accuracy"] for event in events[:3]]
    assert seen == [round(value, 1) for value in exact]
    hidden = {value for value in exact if round(value, 1) != value}
    assert hidden
    assert not hidden & {point["score"] for point in told["points"][:-1]}


async def test_at_a_desk_the_facts_name_the_session_they_are_of(backend: str) -> None:
    async with desk_host(backend) as host, rendering(at(host)) as client:
        assert PAGE in {each.uri for each in (await client.list_resources()).resources}
        assert (await client.read_resource(PAGE)).contents[0].text == page()
        refused = await client.call_tool("status", {})
        assert refused.is_error
        assert FACTS not in (refused.meta or {})
        names = [(await client.call_tool("start_task", {"task": "toy"})).structured_content["session_id"] for _ in "ab"]
        newest = await client.call_tool("status", {})
        older = await client.call_tool("status", {"session_id": names[0]})
        assert [result.meta[FACTS]["session_id"] for result in (newest, older)] == names[::-1]
        listed = await client.call_tool("list_sessions", {})
        assert FACTS not in (listed.meta or {})
        async with Client(at(host)) as other:
            assert PAGE not in {each.uri for each in (await other.list_resources()).resources}
            assert FACTS not in ((await other.call_tool("status", {})).meta or {})


@pytest.mark.parametrize("where", ["session", "desk"])
async def test_the_result_of_a_task_has_the_facts_for_who_shows_pages_and_for_nobody_else(
    where: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "gate"
    place.mkdir()
    grader = gated_grader(place)
    monkeypatch.setenv("MLGYM_TASKS", str(make_toy(tmp_path / "gated", grader=grader)))
    shows = advertise(EXTENSION_ID, {"mimeTypes": [APP_MIME_TYPE]})
    async with desk_host(backend) as host:
        session = None if where == "desk" else await host.create("toy")
        url = at(host) if session is None else host.mcp_url(session)
        async with (
            Client(url, extensions=[TasksClient(), shows]) as client,
            Client(url, extensions=[TasksClient()]) as plain,
        ):
            name = ""
            if session is None:
                name = (await client.call_tool("start_task", {"task": "toy"})).structured_content["session_id"]
            await text_of(client, "write_file", path="submission.csv", content=CSV)
            for number, tool in enumerate(("validate", "submit"), 1):
                handle = await begin(client, tool)
                assert (await state_of(client, handle.task_id)).result is None
                (place / "go").touch()
                with anyio.fail_after(30):
                    while (state := await state_of(client, handle.task_id)).status == "working":
                        await anyio.sleep(0.02)
                result = state.result or {}
                told = ScoreFacts.model_validate(result["_meta"].pop(FACTS))
                assert (told.session_id, told.points[-1].kind, len(told.points)) == (name, tool, number)
                assert told.points[-1].score == result["structuredContent"]["score"]
                other = (await state_of(plain, handle.task_id)).result or {}
                assert not {key for key in other.pop("_meta", {}) if key.startswith("dev.mlgym")}
                assert other == {key: value for key, value in result.items() if key != "_meta"}
                (place / "go").unlink()


async def test_a_long_history_is_cut_and_a_damaged_one_left_out(backend: str) -> None:
    async with running_host(backend) as host:
        session = await host.create("toy")
        async with rendering(host.mcp_url(session)) as client:
            await text_of(client, "write_file", path="submission.csv", content=CSV)
            await client.call_tool("validate", {})
            (score,) = session.scoring.scores
            for i in range(700):
                session.episode.journal.append("score", **replace(score, metrics={"accuracy": i / 1000}).record())
                session.scoring.scores.append(score)
            facts = await facts_of(session)
            assert (len(facts.points), facts.left_out) == (500, 201)
            assert facts.points[-1].score == 0.7
            assert len(json.dumps(on_the_wire(await client.call_tool("status", {})))) < 60_000

            path = session.episode.folder / FILE_NAME
            whole = path.read_bytes()
            with path.open("r+b") as file:
                os.pwrite(file.fileno(), b"#", 40)
            session.scoring.scores.append(score)
            damaged = await client.call_tool("status", {})
            assert damaged.meta[FACTS]["points"] == []
            assert "State: ready" in damaged.content[0].text
            path.write_bytes(whole + path.read_bytes()[len(whole) :])


def test_the_page_is_one_document_that_lets_nothing_in_from_elsewhere() -> None:
    document = page()
    assert len(document.encode()) < 48_000
    assert document.startswith("<!doctype html>")
    assert "@@" not in document
    assert set(re.findall(r"\w+://[^\s\"')]+", document)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(
        r"(?i)<(link|img|iframe|script [^>]*src|base)|@import|url\(|innerHTML|outerHTML|eval\(", document
    )
    assert "insertAdjacent" not in document
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', document)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for name, element in (("style-src", "style"), ("script-src", "script")):
        (text,) = re.findall(rf"<{element}>(.*?)</{element}>", document, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules.pop(name) == f"'sha256-{digest}'"
    assert rules == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"}


def test_the_page_about_apps_names_what_there_is() -> None:
    told = (Path(__file__).parents[2] / "docs" / "apps.md").read_text()
    for name in (PAGE, FACTS, APP_MIME_TYPE, EXTENSION_ID, *ScoreFacts.model_fields, *PointView.model_fields, *SHOWN):
        assert f"`{name}`" in told or f'"{name}"' in told, name
