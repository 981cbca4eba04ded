"""Who may come in: admin token, session bearers, OAuth access tokens; and where the server refuses to listen."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from mcp.server.auth.provider import AccessToken

from mlgym_mcp import serving
from mlgym_mcp.cli.http_server import HttpOptions
from mlgym_mcp.serving.auth import JwtVerifier, ResourceServer, bearer_of, is_same, load_admin_token
from tests.serving.conftest import CLI, answering, running_host
from tests.serving.control_client import ACCEPT, INITIALIZE, admin_of, bearer

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]
RESOURCE = "https://mlgym.example"


def test_the_admin_token_is_made_once_and_kept_in_a_file_that_only_the_user_can_read() -> None:
    first, again = load_admin_token(environ={}), load_admin_token(environ={})
    assert first.made
    assert not again.made
    assert first.value == again.value
    assert first.value not in repr(first), "a log must not show it"
    assert first.path is not None
    assert first.path.stat().st_mode & 0o777 == 0o600


def test_a_given_admin_token_comes_from_its_file_or_leaves_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a-token-of-my-own-choice\n")
    environ = {"MLGYM_ADMIN_TOKEN": "another-token-of-my-own"}
    assert load_admin_token(file, dict(environ)).value == "a-token-of-my-own-choice"
    assert load_admin_token(None, environ).value == "another-token-of-my-own"
    assert environ == {}, "no program that the server starts inherits it"


@pytest.mark.parametrize("text", ["", "short", "with space in the middle of it", "ümlaut-in-the-token-here", "x" * 600])
def test_an_admin_token_that_is_no_secret_or_no_header_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(ValueError, match="is not usable"):
        load_admin_token(file, {})


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [b"Bearer"],
        [b"Bearer "],
        [b"bearer\ttoken"],
        [b"Basic dG9rZW4="],
        [b"Bearer two words"],
        [b"Bearer \xff\xfe"],
        [b"Bearer " + b"x" * 10_000],
        [b"Bearer token", b"Bearer token"],
    ],
)
def test_a_malformed_token_is_no_token(headers: list[bytes]) -> None:
    token = bearer_of({"headers": [(b"authorization", value) for value in headers]})
    assert token is None
    assert not is_same(token, "token")
    assert not is_same(token, "")


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer x", "Basic {admin}", "Bearer {admin}x", "Bearer {session}", "{admin}"]
)
async def test_the_control_api_opens_to_the_admin_token_only(header: str, backend: str) -> None:
    async with running_host(backend, require_token=True) as host:
        session = await host.create("toy")
        header = header.format(admin=load_admin_token().value, session=session.token)
        async with httpx.AsyncClient(base_url=host.base_url, headers={"Authorization": header}) as http:
            for method, path in (
                ("GET", "/api/sessions"),
                ("POST", "/api/sessions"),
                ("GET", f"/api/sessions/{session.id}"),
                ("DELETE", f"/api/sessions/{session.id}"),
                ("GET", f"/api/sessions/{session.id}/events"),
                ("GET", "/api/tasks"),
                ("GET", "/api/episodes"),
                ("GET", "/metrics"),
                ("GET", "/metrics/"),
                ("GET", "//metrics"),
                ("GET", "/api/health/../sessions"),
                ("GET", "/nothing"),
                ("POST", "/mcp"),
            ):
                answer = await http.request(method, path)
                assert answer.status_code == 401, (method, path)
                assert answer.headers["www-authenticate"] == "Bearer"
        assert session.over is None


async def test_a_tenants_token_opens_no_other_tenants_session(backend: str) -> None:
    async with running_host(backend, require_token=True) as host, httpx.AsyncClient(headers=ACCEPT) as http:
        mine, other = await host.create("toy"), await host.create("toy")
        for token, status in (
            (other.token, 401),
            (load_admin_token().value, 401),
            (mine.id, 401),
            (mine.token.upper(), 401),
            (mine.token, 200),
        ):
            answer = await http.post(host.mcp_url(mine), json=INITIALIZE, headers=bearer(token))
            assert answer.status_code == status


class Verifier:
    """Knows the tokens that a test made."""

    def __init__(self) -> None:
        self.tokens: dict[str, AccessToken] = {}

    def make(self, token: str, **facts: object) -> str:
        known = {"client_id": "c", "scopes": ["mlgym"], "resource": RESOURCE, "subject": "ada", **facts}
        self.tokens[token] = AccessToken(token=token, **known)
        return token

    async def verify_token(self, token: str) -> AccessToken | None:
        return self.tokens.get(token)


async def test_an_access_token_opens_the_sessions_of_its_subject_and_no_others(backend: str) -> None:
    verifier = Verifier()
    oauth = ResourceServer(verifier, "https://login.example", RESOURCE, ("mlgym",))
    async with running_host(backend, require_token=True, oauth=oauth) as host, admin_of(host) as admin:
        made = {}
        for owner in ("ada", "bob", ""):
            body = {"task": "toy", "metadata": {"owner": owner} if owner else {}}
            made[owner] = (await admin.post("/api/sessions", json=body)).json()
        cases = [
            ("ada", verifier.make("good"), 200),
            ("ada", made["ada"]["token"], 200),
            ("bob", "good", 403),
            ("", "good", 403),
            ("ada", "unknown", 401),
            ("ada", verifier.make("late", expires_at=int(time.time()) - 1), 401),
            ("ada", verifier.make("elsewhere", resource="https://other.example"), 401),
            ("ada", verifier.make("anywhere", resource=None), 401),
            ("ada", verifier.make("weak", scopes=["read"]), 403),
            ("", verifier.make("nobody", subject=None), 403),
            ("ada", made["bob"]["token"], 401),
        ]
        async with httpx.AsyncClient(headers=ACCEPT) as http:
            for owner, token, status in cases:
                answer = await http.post(made[owner]["mcp_url"], json=INITIALIZE, headers=bearer(token))
                assert answer.status_code == status, token
                if status == 401:
                    assert "resource_metadata=" in answer.headers["www-authenticate"]
            metadata = (await http.get(f"{host.base_url}/.well-known/oauth-protected-resource")).json()
            assert metadata["authorization_servers"] == ["https://login.example"]
            assert (await http.get(f"{host.base_url}/api/sessions", headers=bearer("good"))).status_code == 401


async def test_a_jwt_counts_only_if_its_issuer_signed_it_for_us_and_it_names_somebody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key, foreign = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    verifier = JwtVerifier("https://login.example", RESOURCE, "https://login.example/keys")
    monkeypatch.setattr(
        verifier._keys, "get_signing_key_from_jwt", lambda _: type("Key", (), {"key": key.public_key()})()
    )
    claims = {"iss": "https://login.example", "aud": RESOURCE, "sub": "ada", "exp": time.time() + 60, "scope": "a b"}

    async def subject(signer: object = key, algorithm: str = "ES256", **changed: object) -> str | None:
        body = {name: value for name, value in (claims | changed).items() if value is not None}
        found = await verifier.verify_token(jwt.encode(body, signer, algorithm=algorithm))
        return None if found is None else found.subject

    assert await subject() == "ada"
    assert await subject(signer=foreign) is None
    assert await subject(signer=None, algorithm="none") is None
    assert await subject(signer="k" * 32, algorithm="HS256") is None
    assert await subject(iss="https://evil.example") is None
    assert await subject(aud="https://other.example") is None
    assert await subject(exp=time.time() - 5) is None
    assert await subject(exp=None) is None
    assert await subject(sub=None) is None
    assert await verifier.verify_token("no.jwt.at all") is None


class Keys:
    """An authorization server's public keys, over real HTTP."""

    def __init__(self) -> None:
        self.asked = 0
        self.known: list[dict[str, object]] = []
        keys = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                keys.asked += 1
                body = json.dumps({"keys": keys.known}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/keys"

    def add(self, name: str) -> ec.EllipticCurvePrivateKey:
        key = ec.generate_private_key(ec.SECP256R1())
        shown = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
        self.known.append(shown | {"kid": name, "use": "sig", "alg": "ES256"})
        return key


@pytest.fixture
def keys() -> Iterator[Keys]:
    made = Keys()
    with answering(made.http):
        yield made


async def test_a_jwt_opens_a_session_over_http_by_keys_that_are_fetched_and_seldom(keys: Keys, backend: str) -> None:
    key = keys.add("first")
    oauth = ResourceServer(
        JwtVerifier("https://login.example", RESOURCE, keys.url), "https://login.example", RESOURCE, ("mlgym",)
    )
    claims = {"iss": "https://login.example", "aud": [RESOURCE, "x"], "sub": "ada", "scope": "mlgym other"}

    def token(signer: ec.EllipticCurvePrivateKey, name: str, **changed: object) -> str:
        return jwt.encode(claims | {"exp": time.time() + 60} | changed, signer, "ES256", headers={"kid": name})

    async with (
        running_host(backend, require_token=True, oauth=oauth) as host,
        httpx.AsyncClient(headers=ACCEPT) as http,
    ):
        session = await host.create("toy", metadata={"owner": "ada"})

        async def status(bearer_token: str) -> int:
            return (await http.post(host.mcp_url(session), json=INITIALIZE, headers=bearer(bearer_token))).status_code

        assert await status(token(key, "first")) == 200
        assert await status(token(key, "first", sub="bob")) == 403
        assert await status(token(key, "first", scope="other")) == 403
        assert await status(token(key, "first", aud="https://other.example")) == 401
        forger = ec.generate_private_key(ec.SECP256R1())
        for i in range(20):
            assert await status(token(forger, f"no-such-key-{i}")) == 401
        assert await status(token(forger, "first")) == 401
        assert keys.asked <= 2, "a stranger cannot make us ask for keys again and again"
        assert await status(session.token) == 200
        keys.http.shutdown()
        keys.http.server_close()
        assert await status(token(key, "first")) == 200, "known keys are good for a while"


async def test_without_its_key_server_access_tokens_open_nothing_and_session_tokens_do(backend: str) -> None:
    oauth = ResourceServer(
        JwtVerifier("https://login.example", RESOURCE, "http://127.0.0.1:9/keys"), "https://login.example", RESOURCE
    )
    async with (
        running_host(backend, require_token=True, oauth=oauth) as host,
        httpx.AsyncClient(headers=ACCEPT) as http,
    ):
        session = await host.create("toy", metadata={"owner": "ada"})
        made = jwt.encode({"sub": "ada"}, ec.generate_private_key(ec.SECP256R1()), "ES256", headers={"kid": "k"})
        for given, status in ((made, 401), (session.token, 200)):
            answer = await http.post(host.mcp_url(session), json=INITIALIZE, headers=bearer(given))
            assert answer.status_code == status


def test_secrets_are_compared_in_constant_time_and_nowhere_else() -> None:
    compared = []
    for path in sorted(Path(serving.__path__[0]).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq | ast.In) for op in node.ops):
                sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
                if any(re.search(r"(^|[._])(token|bearer|secret)\b", side) for side in sides):
                    compared.append(f"{path.name}: {ast.unparse(node)}")
    assert not compared
    assert "hmac.compare_digest" in inspect.getsource(is_same)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"address": "0.0.0.0"}, "--allow-host"),
        ({"address": "::"}, "--allow-host"),
        ({"address": "my-machine"}, "--allow-host"),
        ({"address": "127.0.0.1", "public_url": "https://mlgym.example"}, "--allow-host"),
        ({"address": "0.0.0.0", "allowed": ["mlgym.example"], "session_tokens": False}, "--no-session-tokens"),
        ({"address": "0.0.0.0", "allowed": ["*"]}, "--allow-host wants a name"),
        ({"address": "0.0.0.0", "allowed": ["https://a.example"]}, "--allow-host wants a name"),
        ({"address": "127.0.0.1", "oauth_issuer": "https://login.example"}, "--oauth-keys"),
        ({"address": "127.0.0.1", "public_url": "mlgym.example", "allowed": ["a"]}, "--public-url wants a URL"),
    ],
)
def test_it_refuses_to_be_open_to_everybody(options: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        HttpOptions(**{"port": 0, **options}).check()


def test_a_public_address_without_a_list_of_hosts_is_refused_in_one_sentence() -> None:
    done = subprocess.run([*CLI, "serve", "--http", "0.0.0.0:0"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "--allow-host" in done.stderr
    assert "Traceback" not in done.stderr


async def test_behind_a_proxy_only_the_named_hosts_are_served_with_and_without_a_port(backend: str) -> None:
    options = HttpOptions("0.0.0.0", 0, allowed=["mlgym.example"])
    options.check()
    async with running_host(backend, security=options.security(), require_token=True) as host:
        async with httpx.AsyncClient() as http:
            for name, status in (
                ("mlgym.example", 200),
                ("mlgym.example:8443", 200),
                ("127.0.0.1", 421),
                ("mlgym.example.evil.example", 421),
            ):
                answer = await http.get(f"{host.base_url}/api/health", headers={"Host": name})
                assert answer.status_code == status, name
            for origin, status in (("https://mlgym.example", 200), ("https://evil.example", 403), ("null", 403)):
                headers = {"Host": "mlgym.example", "Origin": origin}
                assert (await http.get(f"{host.base_url}/api/health", headers=headers)).status_code == status, origin
