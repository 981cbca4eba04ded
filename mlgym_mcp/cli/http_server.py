"""``mlgym-mcp serve --http``: one session for one agent, or many that come and go through the control API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from mcp.server.transport_security import TransportSecuritySettings

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.cli.output import console, errors
from mlgym_mcp.serving.auth import AdminToken, JwtVerifier, ResourceServer, load_admin_token
from mlgym_mcp.serving.host import LOOPBACK, Host
from mlgym_mcp.serving.http_server import run_foreground
from mlgym_mcp.serving.limits import Limits
from mlgym_mcp.serving.listening import is_loopback
from mlgym_mcp.session.registry import SessionRegistry
from mlgym_mcp.session.session import Session


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How to serve over HTTP.

    Attributes:
        address: where to listen.
        port: where to listen; 0 for a free one.
        allowed: names that clients may use for the server in the Host header.
        public_url: how clients reach it, where that is not the address it listens on.
        behind_proxy: whether a reverse proxy on this machine says who the client is.
        session_tokens: whether a session's endpoint wants its bearer.
        admin_token_file: holds the control API's token.
        oauth_issuer: whose access tokens open sessions, too.
        oauth_keys: where that server's public keys are.
        warm: how many sandboxes are kept ready, of each kind.
        limits: of ``mlgym_mcp.serving.limits.Limits``, by name.
    """

    address: str
    port: int
    allowed: Sequence[str] = ()
    public_url: str | None = None
    behind_proxy: bool = False
    session_tokens: bool = True
    admin_token_file: Path | None = None
    oauth_issuer: str | None = None
    oauth_keys: str | None = None
    warm: int = 0
    limits: Mapping[str, Any] | None = None

    @property
    def public(self) -> bool:
        """Whether other machines can reach the address, or are meant to through a proxy."""
        return not is_loopback(self.address) or self.public_url is not None

    def check(self) -> None:
        """Refuse what would be open to everybody.

        Raises:
            ValueError: it would; the message says what is missing.
        """
        if self.public and not self.allowed:
            raise ValueError(
                f"{self.public_url or self.address} can be reached from other machines: name the hosts that clients "
                "will use with --allow-host (sessions then also need their tokens), or bind to 127.0.0.1"
            )
        if self.public and not self.session_tokens:
            raise ValueError("--no-session-tokens is for loopback only: other machines could use every session")
        if (self.oauth_issuer is None) != (self.oauth_keys is None):
            raise ValueError("OAuth wants both --oauth-issuer and --oauth-keys, the URL of its public keys")
        if self.oauth_issuer is not None and self.public_url is None:
            raise ValueError("OAuth wants --public-url: access tokens must have been issued for it")
        for name, url in (("--public-url", self.public_url), ("--oauth-keys", self.oauth_keys)):
            if url is not None and not url.startswith(("https://", "http://")):
                raise ValueError(f"{name} wants a URL, not {url!r}")
        bad = [name for name in self.allowed if not name or any(letter in name for letter in "/*@ ")]
        if bad:
            raise ValueError(f"--allow-host wants a name, with a port if need be: mlgym.example, not {bad[0]!r}")

    def security(self) -> TransportSecuritySettings:
        """Return which Host and Origin headers requests may carry."""
        hosts, origins = list(LOOPBACK.allowed_hosts), list(LOOPBACK.allowed_origins)
        if not is_loopback(self.address):
            hosts, origins = [], []
        for name in self.allowed:
            hosts += [name, f"{name}:*"]
            origins += [f"{kind}://{name}{port}" for kind in ("http", "https") for port in ("", ":*")]
        return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)

    def resource_server(self) -> ResourceServer | None:
        """Return whose access tokens are taken, if anybody's."""
        if self.oauth_issuer is None or self.oauth_keys is None or self.public_url is None:
            return None
        verifier = JwtVerifier(self.oauth_issuer, self.public_url, self.oauth_keys)
        return ResourceServer(verifier, self.oauth_issuer, self.public_url)

    def host(self, *, sandbox: str, unsafe: bool, require_token: bool, many: bool) -> Host:
        """Return the host that serves like this.

        Raises:
            ValueError: a limit makes no sense.
            TaskError: there are no tasks.
        """
        return Host(
            SessionRegistry(Catalog.default(), sandbox=sandbox, unsafe=unsafe, warm=self.warm),
            security=self.security(),
            require_token=require_token,
            oauth=self.resource_server(),
            limits=Limits(**(self.limits or {})),
            on_sigterm="detach" if many else "end",
        )

    def serving(self, admin: AdminToken) -> dict[str, Any]:
        """Return what ``serve_http`` takes."""
        return {"admin": admin, "public_url": self.public_url, "behind_proxy": self.behind_proxy}


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``.

    Raises:
        ValueError: it is not of that form.
    """
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"--http wants HOST:PORT, for example 127.0.0.1:8000, not {text!r}")
    return host.strip("[]"), int(port)


async def serve_many(options: HttpOptions, sandbox: str, unsafe: bool) -> None:
    """Host sessions that the control API makes, until told to stop. After SIGTERM the next server goes on with them."""
    admin = load_admin_token(options.admin_token_file)
    host = options.host(sandbox=sandbox, unsafe=unsafe, require_token=options.session_tokens, many=True)
    host.desk = host.desks

    async def ready(url: str) -> None:
        console.print(f"Control API: {url}/api/docs  (POST {url}/api/sessions makes a session)", highlight=False)
        if admin.made:
            console.print(f"  with the header 'Authorization: Bearer {admin.value}'", highlight=False)
            console.print(f"  (the admin token, shown this once; it is kept in {admin.path})", highlight=False)
        elif admin.path is not None:
            console.print(f"  with the admin token in {admin.path}", highlight=False)
        console.print(f"One MCP server for all tasks, with the same token: {url}/mcp", highlight=False)
        if adopted := host.registry.live:
            console.print(f"{adopted} sessions of the server before go on.")
        console.print("Ctrl-C ends all sessions; SIGTERM leaves them to the next server at this address.")

    await run_foreground(host, options.address, options.port, ready, **options.serving(admin))


async def serve_one(
    options: HttpOptions,
    task: str,
    preset: str,
    seed: int,
    budget: Mapping[str, float],
    sandbox: str,
    unsafe: bool,
) -> None:
    """Serve one session of one task until it is told to stop."""
    admin = load_admin_token(options.admin_token_file)
    host = options.host(sandbox=sandbox, unsafe=unsafe, require_token=options.public, many=False)

    async def ready(_: str) -> None:
        key = f"serve:{task}:{preset}:{seed}"
        session: Session = await host.create(task, preset=preset, seed=seed, budget=budget, key=key)
        console.print(f"[bold]{session.task.spec.task.title}[/bold] ({preset}) for MCP clients at:")
        console.print(f"  {host.mcp_url(session)}", highlight=False)
        if options.public:
            console.print(f"  with the header 'Authorization: Bearer {session.token}'", highlight=False)
        console.print(f"Episode: {session.episode.folder}\nCtrl-C ends it.", highlight=False)
        while not session.ready and session.over is None:
            await anyio.sleep(0.1)
        if session.over is not None:
            errors.print(session.over_text(), highlight=False)
            host.stopping.set()
        else:
            console.print("The sandbox is ready.")

    await run_foreground(host, options.address, options.port, ready, **options.serving(admin))
