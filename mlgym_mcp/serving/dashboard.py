"""The pages over this installation's episodes, served by the host at ``/view``."""

from __future__ import annotations

import anyio
import anyio.to_thread
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mlgym_mcp.serving.host import Host
from mlgym_sandbox.home import home

PATH = "/view"


class Dashboard:
    """ASGI application: asks browsers for the admin token itself. Nothing is loaded before somebody looks.

    Args:
        host: in whose server it is; Host headers have been looked at.
        token: the admin token.
    """

    def __init__(self, host: Host, token: str) -> None:
        self._host = host
        self._token = token
        self._app: ASGIApp | None = None
        self._making = anyio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for a path below ``PATH``."""
        try:
            async with self._making:
                if self._app is None:
                    self._app = await anyio.to_thread.run_sync(self._made)
        except ImportError as exc:
            told = f"{exc.name} is not installed, which pages need: pip install 'mlgym-mcp[report]'"
            await JSONResponse({"error": told}, 501)(scope, receive, send)
            return
        await self._app({**scope, "root_path": f"{scope.get('root_path', '')}{PATH}"}, receive, send)

    def _made(self) -> ASGIApp:
        from mlgym_mcp.web.app import make_app
        from mlgym_mcp.web.shelf import Shelf

        shelf = Shelf([home("episodes")])
        return make_app(shelf, token=self._token, hosts=None, stopping=self._host.stopping.is_set)
