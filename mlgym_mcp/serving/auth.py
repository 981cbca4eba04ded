"""Who may come in: the admin token, a bearer for each session, and tokens of an OAuth server."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio.to_thread
from mcp.server.auth.provider import AccessToken, TokenVerifier
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from mlgym_mcp.session.session import Session
from mlgym_sandbox.home import home

ADMIN_VARIABLE = "MLGYM_ADMIN_TOKEN"
_SHORTEST = 16
_LONGEST = 512
_LONGEST_JWT = 8192
_VISIBLE = re.compile(rb"[!-~]+")
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures by key pairs only: with a shared secret, whoever checks a token could also make one."""
METADATA_PATH = "/.well-known/oauth-protected-resource"


@dataclass(frozen=True, slots=True)
class AdminToken:
    """The token of the control API.

    Attributes:
        value: the token.
        made: whether it was made just now, so that it has to be shown to somebody.
        path: the file that holds it, if one does.
    """

    value: str = field(repr=False)
    made: bool = False
    path: Path | None = None


def load_admin_token(file: Path | None = None, environ: MutableMapping[str, str] = os.environ) -> AdminToken:
    """Return the admin token: of ``file``, of ``$MLGYM_ADMIN_TOKEN``, or of this installation, made on first use.

    The variable is taken out of the environment, so that no program that the server starts inherits it.

    Raises:
        ValueError: it is too short to be secret, too long, or holds what a header cannot.
        OSError: the file cannot be read.
    """
    given = environ.pop(ADMIN_VARIABLE, None)
    if file is not None:
        return AdminToken(_usable(file.read_text(encoding="utf-8", errors="replace"), str(file)), path=file)
    if given is not None:
        return AdminToken(_usable(given, f"${ADMIN_VARIABLE}"))
    path = home() / "admin.token"
    made = not path.exists()
    if made:
        part = home() / f"admin.token.{secrets.token_hex(4)}"
        part.touch(mode=0o600)
        part.write_text(secrets.token_urlsafe(24) + "\n")
        try:
            path.hardlink_to(part)  # the first of two servers wins
        except FileExistsError:
            made = False
        part.unlink()
    return AdminToken(_usable(path.read_text(), str(path)), made, path)


def _usable(text: str, source: str) -> str:
    token = text.strip()
    if not _SHORTEST <= len(token) <= _LONGEST or not all("!" <= letter <= "~" for letter in token):
        raise ValueError(
            f"the admin token of {source} is not usable: it wants {_SHORTEST} to {_LONGEST} visible ASCII characters "
            "without spaces, for example from 'openssl rand -base64 24'"
        )
    return token


def bearer_of(scope: Scope) -> bytes | None:
    """Return the bearer token that a request carries; ``None`` if it carries none, several, or a malformed one."""
    headers = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(headers) != 1:
        return None
    kind, _, token = headers[0].partition(b" ")
    token = token.strip()
    if kind.lower() != b"bearer" or len(token) > _LONGEST_JWT or _VISIBLE.fullmatch(token) is None:
        return None
    return bytes(token)


def is_same(given: bytes | None, token: str) -> bool:
    """Compare a given token with the right one, in a time that tells neither content nor length."""
    mine = hashlib.sha256(token.encode()).digest()
    theirs = hashlib.sha256(given or b"").digest()
    return hmac.compare_digest(mine, theirs) and given is not None


def refusal(status: int, error: str, challenge: str = "Bearer") -> Response:
    """Return the answer to a request that carries no token, or not the right one."""
    return JSONResponse({"error": error}, status, {"WWW-Authenticate": challenge, "Cache-Control": "no-store"})


@dataclass(frozen=True)
class ResourceServer:
    """OAuth resource-server mode: access tokens of an authorization server open the sessions of their owner.

    A token opens the sessions whose metadata names its subject as ``owner``, and no others; each session's own
    bearer goes on to work.

    Attributes:
        verifier: checks a token; the mcp package's protocol.
        issuer: URL of the authorization server, told to clients.
        resource: this server's public URL: tokens must have been issued for it.
        scopes: all of which a token must carry.
        clock: Unix time, seconds.
    """

    verifier: TokenVerifier
    issuer: str
    resource: str
    scopes: tuple[str, ...] = ()
    clock: Callable[[], float] = time.time

    async def refused(self, session: Session, token: bytes | None) -> Response | None:
        """Return why a token does not open a session, or ``None`` if it does."""
        path = f"{self.resource.rstrip('/')}{METADATA_PATH}"
        challenge = f'Bearer error="invalid_token", resource_metadata="{path}"'
        found = None if token is None else await self.verifier.verify_token(token.decode("ascii"))
        if found is None or (found.expires_at is not None and found.expires_at <= self.clock()):
            return refusal(401, "this session needs its own token or a valid access token", challenge)
        if (found.resource or "").rstrip("/") != self.resource.rstrip("/"):
            return refusal(401, f"the access token was not issued for {self.resource}", challenge)
        if missing := [scope for scope in self.scopes if scope not in found.scopes]:
            needs = f'Bearer error="insufficient_scope", scope="{" ".join(self.scopes)}", resource_metadata="{path}"'
            return refusal(403, f"the access token lacks the scope {missing[0]}", needs)
        owner = session.config.metadata.get("owner")
        if not isinstance(owner, str) or not owner or not found.subject or owner != found.subject:
            return refusal(403, "the session belongs to somebody else", f'{challenge}, scope="{" ".join(self.scopes)}"')
        return None

    def metadata(self) -> dict[str, object]:
        """Return the protected-resource metadata (RFC 9728) from which clients learn where tokens come from."""
        return {
            "resource": self.resource,
            "authorization_servers": [self.issuer],
            "scopes_supported": list(self.scopes),
            "bearer_methods_supported": ["header"],
        }


class JwtVerifier:
    """Checks access tokens that are JWTs signed by an authorization server (RFC 9068).

    Args:
        issuer: must be the token's ``iss``.
        audience: must be among the token's ``aud``.
        keys_url: where the server's public keys (a JWK set) are.
    """

    def __init__(self, issuer: str, audience: str, keys_url: str) -> None:
        import jwt  # and, with it, cryptography: for those who have an authorization server

        self._issuer = issuer
        self._audience = audience
        self._keys = jwt.PyJWKClient(keys_url, cache_keys=True, lifespan=600, timeout=5)
        self._limiter = anyio.CapacityLimiter(2)

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return what a token says, or ``None`` if it is not valid or the keys cannot be had."""
        return await anyio.to_thread.run_sync(self._verify, token, limiter=self._limiter)

    def _verify(self, token: str) -> AccessToken | None:
        import jwt

        try:
            claims = jwt.decode(
                token,
                self._keys.get_signing_key_from_jwt(token).key,
                algorithms=list(_ALGORITHMS),
                audience=self._audience,
                issuer=self._issuer,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            return None
        subject = str(claims["sub"])
        return AccessToken(
            token=token,
            client_id=str(claims.get("client_id") or claims.get("azp") or subject),
            scopes=str(claims.get("scope") or "").split(),
            expires_at=int(claims["exp"]),
            resource=self._audience,
            subject=subject,
            claims={"iss": self._issuer},
        )


@dataclass(frozen=True)
class Access:
    """Decides who may use a session's endpoint.

    Attributes:
        require_token: whether the session's bearer is needed on top of the unguessable path.
        oauth: whose access tokens are as good, if any.
    """

    require_token: bool
    oauth: ResourceServer | None = None

    async def refused(self, session: Session, scope: Scope) -> Response | None:
        """Return the answer to a request that may not pass, or ``None`` if it may."""
        if not self.require_token:
            return None
        token = bearer_of(scope)
        if is_same(token, session.token):
            return None
        if self.oauth is not None:
            return await self.oauth.refused(session, token)
        return refusal(401, "this session needs its token: send 'Authorization: Bearer TOKEN'")
