"""A session and the way to it, which is made anew when its server comes back. Lives in the portal's loop."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.abc
import httpx2
from mcp import Client

from mlgym_clients.agents.calling import Caller, Regained, Result, ServerLostError
from mlgym_clients.episode_player import connected
from mlgym_clients.rl import portal, watching
from mlgym_clients.rl.servers import Address
from mlgym_clients.sweep.control import Control, ControlError
from mlgym_mcp.api import SessionRequest, SessionView, StatusView

_LOOK_S = 0.05
_PAUSE_S = 0.2
_LEAVE_S = 2.0


class OverError(Exception):
    """The session is over, by what the control API says: an earlier server may have ended it, unheard."""


class _Connection:
    """One connection, held by a task of its own until it is left or breaks."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self.failure: Exception | None = None
        self.tried = anyio.Event()
        self.left = anyio.Event()
        self.gone = anyio.Event()

    async def hold(self, url: str, token: str | None) -> None:
        try:
            async with connected(url, token) as client:
                self.client = client
                self.tried.set()
                await self.left.wait()
        except Exception as exc:  # noqa: BLE001 - kept for whoever asks why it broke
            self.failure = exc
        finally:
            self.client = None
            self.tried.set()
            self.gone.set()

    @property
    def unsent(self) -> bool:
        """Whether it broke because nobody listened, so that its last request reached nobody."""
        return isinstance(first(self.failure), httpx2.ConnectError | httpx2.ConnectTimeout)


class Link:
    """Makes a session and speaks to it.

    Args:
        where: the server.
        wanted: the session.
        patience_s: how long the server may be away before it is given up.
    """

    def __init__(self, where: Address, wanted: SessionRequest, patience_s: float) -> None:
        self._where, self._wanted, self._patience_s = where, wanted, patience_s
        self._started: Future[SessionView] = Future()
        self._view: SessionView | None = None
        self._connection: _Connection | None = None
        self._caller: Caller | None = None
        self._control: Control | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._stop: anyio.Event | None = None
        self._done: anyio.Event | None = None
        self._over: SessionView | None = None
        portal.portal().start_task_soon(self._live)

    def started(self) -> SessionView:
        """Return the session, once it is made and connected.

        Raises:
            ServerLostError: the server does not answer.
            ControlError: it refuses the session.
        """
        return self._started.result()

    async def _live(self) -> None:
        self._stop, self._done = anyio.Event(), anyio.Event()
        try:
            async with (
                Control(self._where.url, self._where.token, patience_s=self._patience_s) as control,
                anyio.create_task_group() as tasks,
            ):
                self._control, self._tasks = control, tasks
                self._view = view = await control.create(self._wanted)
                watching.watch(self._where, view.id)
                try:
                    client = (await self._regain()).client
                    self._caller = Caller(client, on_lost=self._regain)
                    self._started.set_result(view)
                    await self._stop.wait()
                finally:
                    if self._over is None:
                        watching.end(view.id)  # its owner is gone, or never came to have it
                await self._broken()
                tasks.cancel_scope.cancel()
        except Exception as exc:  # noqa: BLE001 - raised where the session is waited for
            if not self._started.done():
                self._started.set_exception(first(exc) or exc)
        finally:
            self._caller = self._control = self._tasks = None
            self._done.set()

    async def _connect(self) -> Client:
        """Connect to the session, once.

        Raises:
            ServerLostError: it cannot be.
        """
        assert self._view is not None
        if self._tasks is None:
            raise ServerLostError("the connection was closed")
        self._connection = made = _Connection()
        self._tasks.start_soon(made.hold, self._view.mcp_url, self._view.token)
        await made.tried.wait()
        if made.client is None:
            place, cause = urlsplit(self._view.mcp_url), first(made.failure)  # the whole path would open the session
            reason = str(cause) or type(cause).__name__
            raise ServerLostError(f"the session at {place.scheme}://{place.netloc} does not answer: {reason}")
        return made.client

    async def _regain(self) -> Regained:
        """Connect anew after the connection broke: to the same session, at whichever server is there now.

        Raises:
            ServerLostError: no server is there that knows the session.
            OverError: the session is over.
        """
        sent = await self._broken()
        begun = time.monotonic()
        while True:
            try:
                return Regained(await self._connect(), sent)
            except ServerLostError:
                view = await self._shown()  # once a server is there
                if view.state == "over":
                    self._forget(view)
                    raise OverError(view.detail) from None
                if time.monotonic() - begun >= self._patience_s:
                    raise
            await anyio.sleep(_PAUSE_S)

    async def _broken(self) -> bool:
        """Leave the connection that broke; return whether its last request may have reached somebody."""
        if (connection := self._connection) is None:
            return False
        connection.left.set()
        with anyio.move_on_after(_LEAVE_S):
            await connection.gone.wait()
        return not connection.unsent

    async def _shown(self, *, end: bool = False) -> SessionView:
        """Return the session as the server shows it, waiting for the server; ``end``: once it has ended it.

        Raises:
            ServerLostError: the server does not come back, or knows nothing of the session.
        """
        if self._control is None or self._view is None:
            raise ServerLostError("the connection was closed")
        try:
            view = await (self._control.end if end else self._control.session)(self._view.id)
        except ControlError as exc:
            raise ServerLostError(f"the server does not show the session: {exc}") from exc
        if view is None:
            raise ServerLostError("the server does not know its session any more")
        return view

    def _forget(self, over: SessionView) -> None:
        watching.forget(over.id)
        self._over = over

    async def call(self, tool: str, arguments: dict[str, Any], until_done: bool) -> Result:
        """Make a call.

        Raises:
            ServerLostError: the server does not answer, and no other in its place.
            OverError: the session ended while the server was away.
        """
        caller = self._caller
        if caller is None:
            raise ServerLostError("the connection was closed")
        if self._over is not None:
            raise OverError(self._over.detail)
        if until_done and tool in ("validate", "submit"):
            return await caller.score("validate" if tool == "validate" else "submit")
        result = await caller.call(tool, arguments)
        return await caller.finished(result) if until_done else result

    async def until_ready(self) -> StatusView:
        """Return the session's status once its sandbox is there, or it is over.

        Raises:
            ServerLostError, OverError: as ``call``.
        """
        pause = _LOOK_S / 8
        while True:
            status = StatusView.model_validate((await self.call("status", {}, False)).structured)
            if status.state != "preparing":
                return status
            await anyio.sleep(pause)
            pause = min(10 * _LOOK_S, 1.5 * pause)

    async def ended(self) -> SessionView:
        """End the session, and return what it came to.

        Raises:
            ServerLostError: the server does not answer, or knows nothing of it.
        """
        if self._over is None:
            self._forget(await self._shown(end=True))
        assert self._over is not None
        return self._over

    async def close(self) -> None:
        """End the session, and leave it."""
        try:
            if self._control is not None:
                await self.ended()
        except ServerLostError:
            if self._view is not None:
                watching.end(self._view.id)  # tried once more, by somebody who has the time
        finally:
            if self._stop is not None and self._done is not None:
                self._stop.set()
                await self._done.wait()

    def drop(self) -> None:
        """Have the session ended and left, without waiting for it; from any thread."""
        if (stop := self._stop) is not None:
            portal.soon(stop.set)


def first(error: BaseException | None) -> BaseException | None:
    """Return the first of a group's errors, or the error itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
