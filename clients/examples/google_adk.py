"""A Google ADK agent attempts a task: ``pip install -r requirements/google_adk.txt``.

Over HTTP: ``MLGYM_URL`` and ``MLGYM_TOKEN`` are what ``POST /api/sessions`` answered. On stdio: ``--stdio TASK``.
The model is ``MODEL`` at ``OPENAI_BASE_URL`` (by default OpenAI's), with ``OPENAI_API_KEY``.
"""

import asyncio
import os
import sys

from google.adk.agents import LlmAgent
from google.adk.models.lite_llm import LiteLlm
from google.adk.runners import InMemoryRunner
from google.adk.tools.mcp_tool import McpToolset, StdioConnectionParams, StreamableHTTPConnectionParams
from google.genai import types
from mcp import StdioServerParameters

GOAL = "Call get_task and do what it says. Improve on the baseline step by step, validate, and submit once, at the end."


def server() -> StdioConnectionParams | StreamableHTTPConnectionParams:
    """Where the task is. A call of ours answers within a minute, whatever it started: longer work goes on as a job.

    By default a call may take 5 s on stdio and 5 minutes over HTTP.
    """
    if "--stdio" in sys.argv:
        command, arguments = os.environ.get("MLGYM_COMMAND", "mlgym-mcp"), ["serve", sys.argv[-1]]
        parameters = StdioServerParameters(command=command, args=arguments, env=dict(os.environ))
        return StdioConnectionParams(server_params=parameters, timeout=3600)
    token = {"Authorization": f"Bearer {os.environ['MLGYM_TOKEN']}"}
    return StreamableHTTPConnectionParams(url=os.environ["MLGYM_URL"], headers=token, timeout=60, sse_read_timeout=3600)


async def main() -> None:
    """Let the agent play."""
    toolset = McpToolset(connection_params=server())
    # A Gemini model needs no LiteLlm: LlmAgent takes its name.
    model = LiteLlm(model=f"openai/{os.environ['MODEL']}", api_base=os.environ.get("OPENAI_BASE_URL"))
    agent = LlmAgent(name="researcher", model=model, instruction="You know machine learning well.", tools=[toolset])
    runner = InMemoryRunner(agent=agent, app_name="mlgym")
    session = await runner.session_service.create_session(app_name="mlgym", user_id="me")
    message = types.Content(role="user", parts=[types.Part(text=GOAL)])
    async for event in runner.run_async(user_id="me", session_id=session.id, new_message=message):
        if event.is_final_response() and event.content:
            print(event.content.parts[0].text)
    await toolset.close()


if __name__ == "__main__":
    asyncio.run(main())
