"""The pages as they are sent."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from mlgym_mcp.session.episode import Episode
from mlgym_mcp.session.journal import Journal
from mlgym_mcp.web.text import folded, visible
from tests.records.written import lines, put_lines, score, write_episode
from tests.web.conftest import HOSTILE, address, elements, looking, words, write_hostile

pytestmark = pytest.mark.anyio


def listed(page: str) -> list[str]:
    return [
        str(a["href"]).rpartition("/")[2].partition("~")[0]
        for _, a in elements(page, "a")
        if "/episodes/" in str(a.get("href"))
    ]


async def test_the_list_shows_all_episodes_the_newest_first_and_filters_them(root: Path) -> None:
    async with looking(root) as client:
        page = (await client.get("/")).text
        assert listed(page) == ["open", "bad", "e2", "e1", "e0"]
        assert "5 of 5 episodes" in words(page)
        for query, expected in {
            "method=fair": ["bad", "e2"],
            "task=other": ["bad"],
            "outcome=live": ["open"],
            "sweep=monday": ["e2", "e1", "e0"],
            "sweep=monday&method=good": ["e1", "e0"],
            "text=E1": ["e1"],
            "text=%25": [],
            "method=%27%20OR%201%20--": [],
            "page=2": [],
            "page=-1&nonsense=%ff": ["open", "bad", "e2", "e1", "e0"],
        }.items():
            assert listed((await client.get(f"/?{query}")).text) == expected, query


async def test_only_episodes_below_the_named_folders_are_shown(root: Path, tmp_path: Path) -> None:
    write_episode(tmp_path / "episodes2", "elsewhere")
    async with looking(tmp_path / "episodes2") as client:
        await client.get("/")
    async with looking(root) as client:
        page = (await client.get("/")).text
        assert "elsewhere" not in page
        assert (await client.get(address(tmp_path / "episodes2" / "elsewhere"))).status_code == 404


async def test_a_sweep_that_holds_links_to_episodes_elsewhere_shows_those_and_no_others(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "sweep" / "episodes").mkdir(parents=True)
    for name in ("e0", "bad"):
        (tmp_path / "sweep" / "episodes" / name).symlink_to(root / name)
    async with looking(root) as client:
        await client.get("/")  # the index knows the others, too
    async with looking(tmp_path / "sweep") as client:
        assert listed((await client.get("/")).text) == ["bad", "e0"]
        assert listed((await client.get("/?task=other")).text) == ["bad"]
        assert (await client.get(address(root / "e0"))).status_code == 200


async def test_what_comes_and_changes_is_seen_without_a_restart(root: Path) -> None:
    async with looking(root) as client:
        await client.get("/")
        write_episode(root, "later", submitted=0.75)
        shown = words((await client.get("/")).text)
        assert "later" in shown
        assert "6 of 6 episodes" in shown
        assert (await client.get(address(root / "later"))).status_code == 200


async def test_a_long_list_comes_in_pages(tmp_path: Path) -> None:
    for i in range(103):
        write_episode(tmp_path / "many", f"e{i:03}", validations=(), calls=0, agent="a b&c")
    async with looking(tmp_path / "many") as client:
        first = (await client.get("/?method=a+b%26c")).text
        assert len(listed(first)) == 100
        (following,) = [a["href"] for _, a in elements(first, "a") if a.get("rel") == "next"]
        assert len(listed((await client.get(str(following))).text)) == 3


async def test_an_episode_is_a_timeline_of_calls_with_a_chart_and_its_baseline(root: Path) -> None:
    async with looking(root) as client:
        page = (await client.get(address(root / "e0"))).text
    assert [a["id"] for _, a in elements(page, "article")] == ["e0", "e1", "e3", "e4", "e5"]
    shown = words(page)
    assert "echo 0" in shown
    assert "accuracy 0.7" not in shown
    assert "accuracy 0.9 ± 0.01" in shown
    assert "baseline 0.5" in shown
    assert {a.get("class") for _, a in elements(page)} >= {"chart", "baseline", "run", "validation", "submission"}


async def test_long_output_is_folded_and_whole(tmp_path: Path) -> None:
    folder = write_episode(tmp_path / "r", "long", outcome=None, calls=0)
    journal = Journal(folder)
    call = journal.append("call", tool="write_file", arguments={"path": "a.py", "content": "x = 1\n" * 500})
    journal.append("result", call=call.seq, seconds=0.1, text="".join(f"line {i}\n" for i in range(900)))
    journal.close()
    async with looking(tmp_path / "r") as client:
        page = (await client.get(address(folder))).text
    shown = words(page)
    assert "output: all 900 lines" in shown
    assert "content: all 500 lines" in shown
    assert "line 899" in shown
    assert len(elements(page, "details")) == 2


async def test_a_long_episode_comes_in_pages_that_join(tmp_path: Path) -> None:
    folder = write_episode(tmp_path / "r", "many", calls=250)
    async with looking(tmp_path / "r") as client:
        seen, query = [], "?from=0"
        while query:
            page = (await client.get(address(folder) + query)).text
            seen += [a["id"] for _, a in elements(page, "article")]
            query = next((str(a["href"]) for _, a in elements(page, "a") if a.get("rel") == "next"), "")
    assert len(seen) == len(set(seen)) == 254


async def test_long_arguments_are_read_from_their_files(tmp_path: Path) -> None:
    folder = write_episode(tmp_path / "r", "blob", outcome=None)
    episode = Episode(folder)
    text = "<script>1</script>" * 1000
    episode.journal.append("call", tool="write_file", arguments=episode.shrink({"path": "p", "content": text}))
    episode.close()
    async with looking(tmp_path / "r") as client:
        page = (await client.get(address(folder))).text
        (link,) = [str(a["href"]) for _, a in elements(page, "a") if "/blobs/" in str(a.get("href"))]
        given = await client.get(link)
        assert given.text == text
        assert given.headers["content-type"] == "text/plain; charset=utf-8"
        assert given.headers["content-security-policy"].startswith("sandbox;")
        assert (await client.get(link[:-1] + ("0" if link[-1] != "0" else "1"))).status_code == 404


async def test_a_damaged_journal_is_told_and_the_rest_is_shown(root: Path) -> None:
    content = lines(root / "e0")
    content[2] = b"\xff\xfe not a line\n"
    put_lines(root / "e0", content)
    async with looking(root) as client:
        page = (await client.get(address(root / "e0"))).text
    assert "2 damaged lines left out (3, 4)" in words(page)
    assert "accuracy 0.9" in words(page)


async def test_nothing_that_an_episode_says_becomes_markup(tmp_path: Path) -> None:
    folder = write_hostile(tmp_path / "r")
    here = address(folder)
    async with looking(tmp_path / "r") as client:
        for path in ("/", here, f"{here}/jobs", f"{here}/jobs/j1", f"{here}/files", "/report", "/?text=" + "<script>"):
            answer = await client.get(path)
            assert answer.status_code == 200, path
            page = answer.text
            assert [a.get("src") for _, a in elements(page, "script")] == ["/static/view.js"], path
            for tag, attributes in elements(page):
                assert tag not in ("b", "iframe", "object", "embed", "img"), path
                assert not any(name.startswith("on") for name in attributes), (path, tag, attributes)
                for name in ("href", "src", "action", "data-follow", "data-plot"):
                    assert str(attributes.get(name) or "/").startswith(("/", "#", "?")), (path, attributes)
            hidden = {c for c in page if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t"}
            assert not hidden, path
            assert "49" not in words(page.replace(here, "")).split()
        assert "⟨U+202E⟩turned round" in words((await client.get(here)).text)


async def test_neither_tokens_nor_what_graders_keep_to_themselves_are_shown(tmp_path: Path) -> None:
    folder = write_hostile(tmp_path / "r", "plain")
    async with looking(tmp_path / "r") as client:
        page = (await client.get(address(folder))).text
    assert "secret-labels" not in page
    assert "b" * 64 not in page
    assert "a" * 64 not in page


async def test_jobs_are_shown_as_their_agent_saw_them(tmp_path: Path) -> None:
    folder = write_episode(tmp_path / "r", "jobs", outcome=None, submitted=None, validations=(), calls=0)
    journal = Journal(folder)
    looks = [
        ("shell", {"command": "python train.py\n# more"}, "epoch 1\n", {"job_id": "j1", "state": "running"}),
        ("job_wait", {"job_id": "j1"}, "epoch 2\n", {"job_id": "j1", "state": "exited", "exit_code": 3, "seconds": 9}),
        ("shell", {"command": "true"}, "", {"job_id": "j2", "state": "exited", "exit_code": 0}),
        ("job_wait", {"job_id": "../../x"}, "no such job", {}),
    ]
    for tool, arguments, text, meta in looks:
        call = journal.append("call", tool=tool, arguments=arguments)
        journal.append("result", call=call.seq, seconds=0.1, text=text, meta=meta)
    journal.close()
    here = address(folder)
    async with looking(tmp_path / "r") as client:
        shown = words((await client.get(f"{here}/jobs")).text)
        assert "j1 exited, exit 3 9.0 s" in shown
        assert "python train.py # more" in shown
        page = (await client.get(f"{here}/jobs/j1")).text
        assert "epoch 1" in words(page)
        assert "epoch 2" in words(page)
        assert [a["id"] for _, a in elements(page, "article")] == ["e1", "e3"]
        assert (await client.get(f"{here}/jobs/j9")).status_code == 404


async def test_a_sweep_has_its_leaderboard_and_plots(root: Path) -> None:
    write_episode(root, "lost", submitted=None, outcome="infrastructure_error", agent="good", sweep="monday")
    async with looking(root) as client:
        page = (await client.get("/report?sweep=monday")).text
        shown = words(page)
        assert "3 attempts count; left out: 1 ended by an infrastructure error" in shown
        assert "accuracy, higher is better; baseline 0.5" in shown
        plots = [str(a["data-plot"]) for _, a in elements(page, "figure")]
        assert [p.rpartition("/")[2] for p in plots] == [
            f"{name}?sweep=monday" for name in ("normalised", "cost", "profiles", "aup", "scores-toy")
        ]
        drawn = await client.get(plots[-1])
        assert drawn.text.startswith("<svg")
        assert "<style" not in drawn.text
        assert "var(--ink)" in drawn.text
        assert (await client.get("/report/pictures/nothing?sweep=monday")).status_code == 404
        write_episode(root, "new", submitted=0.95, agent="best", sweep="monday", attempt=9)
        assert "best" in words((await client.get("/report?sweep=monday")).text)
        assert "No attempt here counts yet" in words((await client.get("/report?sweep=none")).text)


async def test_what_is_not_there_is_a_page_that_says_so(root: Path) -> None:
    async with looking(root) as client:
        for path in (
            "/nothing",
            "/episodes/e0~0000000000",
            "/episodes/..~0",
            "/episodes/%2e%2e%2f%2e%2e%2fetc",
            f"{address(root / 'e0')}/files/{'0' * 64}",
            "/static/..%2fapp.py",
            "/static/app.py",
        ):
            answer = await client.get(path)
            assert answer.status_code == 404, path
            assert "Traceback" not in answer.text
        assert (await client.get(f"{address(root / 'open')}/follow?after=x")).status_code == 400
        (root / "e0" / "events.jsonl").unlink()
        assert (await client.get(address(root / "e0"))).status_code == 404


async def test_a_folder_that_is_taken_away_leaves_pages_that_say_so(root: Path) -> None:
    async with looking(root) as client:
        await client.get("/")
        root.rename(root.with_name("moved"))
        answer = await client.get("/")
        assert answer.status_code == 200
        assert "there is no folder" in words(answer.text)


def test_every_letter_shows() -> None:
    assert visible("\x1b[1;31mred\x1b[m\r\n\x07\x7f\u200b\u2028é\u00a0") == "red\n␇␡⟨U+200B⟩\né "
    assert visible("\x1b]0;x\x07") == "␛]0;x␇"
    assert visible(HOSTILE).encode()
    assert folded("a\n" * 14).whole == ""
    assert folded("a\n" * 100).head == "\n".join("a" * 12)
    assert len(folded("a" * 10_000).head) == 1500


async def test_scores_that_no_chart_can_hold_make_no_error(tmp_path: Path) -> None:
    folder = write_episode(tmp_path / "r", "wild", validations=(1e308, -1e308, 5e-324, 0.0), submitted=1e300)
    journal = Journal(write_episode(tmp_path / "r", "worse", outcome=None, calls=0))
    for value in ("x", None, True, [1], {"a": 1}, 10**400):
        journal.append("score", **(score("validate", 0.5) | {"metrics": {"accuracy": value}}))
    journal.close()
    async with looking(tmp_path / "r") as client:
        assert "nan" not in (await client.get(address(folder))).text
        assert (await client.get(address(tmp_path / "r" / "worse"))).status_code == 200
        assert (await client.get("/report")).status_code == 200
