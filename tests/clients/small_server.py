"""A server with the tools that an agent's loop needs and nothing behind them, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mcp.server import MCPServer
from mcp.types import CallToolResult, TextContent


@dataclass
class SmallServer:
    """Remembers what was called. ``calls_left``: after so many commands the budget is spent and the episode over."""

    calls_left: int = 1_000_000
    output: str = "ok"
    called: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    over: bool = False

    def mcp(self) -> MCPServer[Any]:
        server: MCPServer[Any] = MCPServer("small", instructions="A small server.", version="1", log_level="WARNING")

        @server.tool(description="Read the task.")
        async def get_task() -> CallToolResult:
            return answer("Guess odd or even.", structured={"id": "toy", "preset": "mini", "files": ["start.py"]})

        @server.tool(description="Session status.")
        async def status() -> CallToolResult:
            return answer("fine", structured={"state": "over" if self.over else "ready"})

        @server.tool(description="Run a command.")
        async def shell(command: str, timeout_s: float = 10) -> CallToolResult:
            self.called.append(("shell", {"command": command}))
            if self.calls_left <= 0:
                self.over = True
                return answer("The episode is over.", meta={"refused": True})
            self.calls_left -= 1
            if command == "fail":
                return answer("no such thing", is_error=True)
            return answer(f"{self.output} {len(self.called) if command == 'count' else command}")

        @server.tool(description="Submit.")
        async def submit() -> CallToolResult:
            self.called.append(("submit", {}))
            self.over = True
            return answer("Submitted. Test score: accuracy 0.5.", structured={"valid": True, "score": 0.5})

        return server


def answer(
    text: str, *, structured: dict[str, Any] | None = None, meta: dict[str, Any] | None = None, is_error: bool = False
) -> CallToolResult:
    return CallToolResult(
        content=[TextContent(type="text", text=text)], structured_content=structured, is_error=is_error, _meta=meta
    )
