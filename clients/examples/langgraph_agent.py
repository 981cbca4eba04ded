"""A LangGraph graph attempts a task: ``pip install -r requirements/langgraph_agent.txt``.

Over HTTP: ``MLGYM_URL`` and ``MLGYM_TOKEN`` are what ``POST /api/sessions`` answered. On stdio: ``--stdio TASK``.
The model is ``MODEL`` at ``OPENAI_BASE_URL`` (by default OpenAI's), with ``OPENAI_API_KEY``.
"""

import asyncio
import os
import sys
from datetime import timedelta

from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."


def server() -> dict[str, object]:
    """Where the task is. A call of ours answers within a minute, whatever it started: longer work goes on as a job."""
    if "--stdio" in sys.argv:
        command = os.environ.get("MLGYM_COMMAND", "mlgym-mcp")
        return {"transport": "stdio", "command": command, "args": ["serve", sys.argv[-1]], "env": dict(os.environ)}
    token = {"Authorization": f"Bearer {os.environ['MLGYM_TOKEN']}"}
    url = {"transport": "streamable_http", "url": os.environ["MLGYM_URL"], "headers": token}
    return {**url, "timeout": timedelta(seconds=60), "sse_read_timeout": timedelta(hours=1)}


async def main() -> None:
    """Let the graph play: model and tools in turn, until the model calls no tool any more."""
    client = MultiServerMCPClient({"mlgym": server()})
    async with client.session("mlgym") as session:  # client.get_tools() would open a new one for every call
        tools = await load_mcp_tools(session)
        model = ChatOpenAI(model=os.environ["MODEL"]).bind_tools(tools)

        async def think(state: MessagesState) -> MessagesState:
            return {"messages": [await model.ainvoke(state["messages"])]}

        graph = StateGraph(MessagesState)
        graph.add_node("think", think)
        graph.add_node("tools", ToolNode(tools, handle_tool_errors=True))  # else a misused tool ends the run
        graph.add_edge(START, "think")
        graph.add_conditional_edges("think", tools_condition)
        graph.add_edge("tools", "think")
        state = await graph.compile().ainvoke({"messages": [("user", GOAL)]}, {"recursion_limit": 500})
        print(state["messages"][-1].text)


if __name__ == "__main__":
    asyncio.run(main())
