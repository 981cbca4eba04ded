"""The least an MCP server can do: a tool that returns its argument, by the SDK alone, as a process of its own."""

from __future__ import annotations

import anyio
import uvicorn
from mcp.server import MCPServer

from mlgym_mcp.serving.listening import listen
from mlgym_mcp.serving.process import loop_options


async def main() -> None:
    """Serve on a free loopback port and print its number."""
    server = MCPServer("echo", log_level="ERROR")

    @server.tool(structured_output=False)
    async def echo(text: str) -> str:
        """Return the text."""
        return text

    listener = listen("127.0.0.1", 0)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="error", access_log=False, ws="none")
    await uvicorn.Server(config).serve([listener])


if __name__ == "__main__":
    anyio.run(main, backend_options=loop_options())
