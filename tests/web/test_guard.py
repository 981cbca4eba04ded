"""Who may look, and what pages may do."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.serving.app import HostApp
from mlgym_mcp.serving.host import Host
from mlgym_mcp.session.registry import SessionRegistry
from tests.toy import make_toy
from tests.web.conftest import address, elements, looking

pytestmark = pytest.mark.anyio

TOKEN = "a-token-of-some-length"


async def test_a_server_that_is_called_by_another_name_does_not_answer(root: Path) -> None:
    async with looking(root) as client:
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "127.0.0.1:80:80"):
            answer = await client.get("/", headers={"Host": host})
            assert answer.status_code == 421, host
            assert "e0" not in answer.text
        for host in ("127.0.0.1", "LOCALHOST:1", "[::1]:8642", "[::1]"):
            assert (await client.get("/", headers={"Host": host})).status_code == 200, host
    async with looking(root, hosts=["lab.example"]) as client:
        assert (await client.get("/", headers={"Host": "lab.example:8642"})).status_code == 200
        assert (await client.get("/")).status_code == 421


async def test_nothing_can_be_changed_and_no_other_site_can_read(root: Path) -> None:
    async with looking(root) as client:
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            assert (await client.request(method, "/")).status_code == 405, method
        there = {"Sec-Fetch-Site": "cross-site"}
        assert (await client.get("/", headers=there | {"Sec-Fetch-Mode": "no-cors"})).status_code == 403
        assert (await client.get("/", headers=there | {"Sec-Fetch-Mode": "navigate"})).status_code == 200


async def test_every_answer_says_that_nothing_else_is_run_or_framed(root: Path) -> None:
    here = address(root / "e0")
    async with looking(root) as client:
        for path in ("/", here, "/report", "/static/view.js", "/report/pictures/aup", "/nothing"):
            headers = (await client.get(path)).headers
            assert "default-src 'none'" in headers["content-security-policy"], path
            assert "script-src 'unsafe" not in headers["content-security-policy"]
            assert "frame-ancestors 'none'" in headers["content-security-policy"], path
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert headers["referrer-policy"] == "same-origin"
        assert "unsafe-inline" not in (await client.get(here)).headers["content-security-policy"]


def cookie_of(answer: httpx.Response) -> str:
    return answer.headers["set-cookie"].partition(";")[0]


async def test_with_a_token_only_those_who_have_it_get_in(root: Path) -> None:
    here = address(root / "e0")
    async with looking(root, token=TOKEN) as client:
        for path in ("/", here, f"{here}/follow", "/report", "/nothing"):
            answer = await client.get(path)
            assert answer.status_code == 401, path
            assert "e0" not in answer.text
            for header in ({"Authorization": "Bearer wrong"}, {"Cookie": "mlgym_view=" + "0" * 64}, {"Cookie": "=;;"}):
                assert (await client.get(path, headers=header)).status_code == 401
            asked = await client.get(path, headers={"Accept": "text/html"})
            assert (asked.status_code, asked.headers["location"]) == (303, "/login")
        assert (await client.get("/", headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 200
        assert "token" in (await client.get("/login")).text
        wrong = await client.post("/login", data={"token": "wrong"})
        assert wrong.headers["location"] == "/login?wrong=1"
        assert "set-cookie" not in wrong.headers
        right = await client.post("/login", data={"token": TOKEN})
        assert right.headers["location"] == "/"
        assert "HttpOnly" in right.headers["set-cookie"]
        assert "SameSite=strict" in right.headers["set-cookie"]
        assert TOKEN not in right.headers["set-cookie"]
        assert (await client.get("/", headers={"Cookie": cookie_of(right)})).status_code == 200
        client.cookies.clear()
        foreign = await client.post("/login", data={"token": TOKEN}, headers={"Origin": "http://evil.example"})
        assert foreign.status_code == 403
        assert (await client.post("/login", content=b"token=" + b"x" * 5000)).status_code == 413


async def test_a_server_of_sessions_shows_them_to_whoever_has_the_admin_token(
    own_home: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_home.mkdir(mode=0o700)
    root.rename(own_home / "episodes")
    here = address(own_home / "episodes" / "e0")
    monkeypatch.setenv("MLGYM_TASKS", str(make_toy(own_home.parent / "tasks")))
    host = Host(SessionRegistry(Catalog.default(), sandbox="process", unsafe=True))
    app = HostApp(host, TOKEN)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        for path in ("/view", "/view/", f"/view{here}", f"/view{here}/follow", "/viewer", "/api/sessions"):
            answer = await client.get(path)
            assert answer.status_code == 401, path
            assert "e0" not in answer.text
        asked = await client.get("/view/", headers={"Accept": "text/html"})
        assert asked.headers["location"] == "/view/login"
        right = await client.post("/view/login", data={"token": TOKEN})
        assert right.headers["location"] == "/view/"
        assert "Path=/view" in right.headers["set-cookie"]
        client.cookies.clear()
        known = {"Cookie": cookie_of(right)}
        page = (await client.get("/view/", headers=known)).text
        assert f"/view{here}" in [a.get("href") for _, a in elements(page, "a")]
        assert (await client.get(f"/view{here}", headers=known)).status_code == 200
        assert (await client.get("/view/static/view.css")).status_code == 200
        assert (await client.get("/api/sessions", headers=known)).status_code == 401
        assert (await client.get("/view/", headers=known | {"Host": "evil.example"})).status_code == 421
