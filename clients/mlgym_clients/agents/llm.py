"""The agent ``llm``: a plain loop between a language model and the tools of a session."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio
from mcp import Client
from mcp.types import Tool
from pydantic_ai.messages import (
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.tools import ToolDefinition

from mlgym_clients.agents.agent import AgentResult, Assignment, EndpointError, StopReason
from mlgym_clients.agents.calling import Caller, Result, clean
from mlgym_clients.agents.conversation import Conversation, shortened
from mlgym_clients.agents.endpoint import ContextFullError, Endpoint, NoAnswerError
from mlgym_clients.agents.llm_options import LlmOptions
from mlgym_clients.agents.spending import Spending
from mlgym_clients.agents.transcript import Transcript
from mlgym_clients.agents.written_calls import written_calls

_SYSTEM = """\
You are a careful machine-learning researcher. You work alone, only through the tools; nobody answers questions.
In every turn call at least one tool. Look at the data and the baseline first, improve step by step, validate what
you try, and call submit once, when the budget is nearly spent or you cannot improve any more."""

_TEXT_STYLE = """\
To call a tool, answer with nothing but one JSON object: {"name": "TOOL", "parameters": {...}}. Several calls: a JSON
list of such objects. The tools, as JSON schemas:"""

_NUDGE = "You called no tool. Call one of the tools now; when you are done, call submit."
_SOON = "[Your own limit is near: {what}. Bring your work into a state that can be submitted, and call submit now.]"

_SILENT = 3
"""So many answers in a row without a call end the play."""
_MISTAKES = 12
"""So many answers in a row whose calls all failed end it."""
_CIRCLE = 6
"""So many times the same calls with the same results in a row, or two such answers in turn, end it."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LONGEST_TEXT = 20_000
_MOST_CALLS = 32
"""Of one answer; the rest are refused: a model in a loop writes hundreds."""


class LlmAgent:
    """Lets a model play through its tool calls, whoever serves it."""

    def __init__(self, options: LlmOptions) -> None:
        """Take the options.

        Raises:
            UnknownPriceError: a cost limit is set, but the model's price is not known.
        """
        Spending(options)
        self.options = options
        self.name = f"llm:{options.model_name}"

    def describe(self) -> dict[str, Any]:
        """Return the options; there is no key among them."""
        return {"agent": "llm", **self.options.model_dump(mode="json", exclude_none=True)}

    async def play(self, client: Client, assignment: Assignment = Assignment()) -> AgentResult:  # noqa: B008 - frozen
        """Play until the model submits, a limit is reached, or it makes no sense to go on.

        Raises:
            ServerLostError: the session's server does not answer.
            EndpointError: the model's endpoint does not.
            OSError: the messages cannot be written.
        """
        retried: list[str] = []
        try:
            endpoint = Endpoint(self.options, assignment.seed, retried.append)
        except NoAnswerError as exc:
            raise EndpointError(str(exc), permanent=exc.permanent) from exc
        secrets = () if endpoint.key is None else (endpoint.key,)
        async with endpoint:
            with Transcript(assignment.folder, secrets) as transcript:
                play = _Play(self.options, endpoint, client, assignment, transcript, retried)
                try:
                    with anyio.move_on_after(self.options.max_seconds):
                        return await play.run()
                    return play.result("limit", f"{self.options.max_seconds:g} seconds are spent")
                except NoAnswerError as exc:
                    result = play.result("failed", str(exc))
                    raise EndpointError(str(exc), permanent=exc.permanent, result=result) from exc


class _Play:
    """One play of one session."""

    def __init__(
        self,
        options: LlmOptions,
        endpoint: Endpoint,
        client: Client,
        assignment: Assignment,
        transcript: Transcript,
        retried: list[str],
    ) -> None:
        self._options = options
        self._endpoint = endpoint
        self._client = client
        self._caller = Caller(client, on_call=assignment.on_call)
        self._transcript = transcript
        self._retried = retried
        self._spending = Spending(options)
        self._silent = self._mistakes = 0
        self._last: deque[int] = deque(maxlen=2 * _CIRCLE)
        self._warned = False
        self._known: set[str] = set()

    async def run(self) -> AgentResult:
        """Play to the end."""
        tools = (await self._client.list_tools()).tools
        self._known = {tool.name for tool in tools}
        native = self._options.tool_style == "native"
        defined = [_definition(tool) for tool in tools] if native else []
        first = await self._first(tools)
        overhead = sum(len(json.dumps(d.parameters_json_schema)) + len(d.description or "") for d in defined)
        options = self._options
        conversation = Conversation(first, options.context_tokens, options.max_output_tokens, overhead)
        while (spent := self._spending.spent()) is None:
            response, calls = await self._asked(conversation, defined)
            conversation.messages.append(response)
            if not calls:
                self._silent += 1
                if self._silent >= _SILENT:
                    return self.result("silent", f"{_SILENT} answers in a row called no tool")
                conversation.messages.append(self._said_to([UserPromptPart(_NUDGE)]))
                continue
            self._silent = 0
            results = [await self._called(call) for call in calls[:_MOST_CALLS]]
            if (stop := await self._stop(calls, results)) is not None:
                self._note_results(calls, results)
                return self.result(*stop)
            conversation.messages.append(self._answered(calls, results))
        return self.result("limit", spent)

    async def _first(self, tools: Sequence[Tool]) -> ModelRequest:
        """Return the first request: instructions, and the task as the server tells it."""
        task = await self._caller.call("get_task")
        system = [_SYSTEM, self._client.instructions or "", self._options.system]
        if self._options.tool_style == "text":
            system.append("\n".join([_TEXT_STYLE, *(_described(tool) for tool in tools)]))
        text = "\n\n".join(part for part in system if part)
        options = self._options.model_dump(mode="json", exclude_none=True)
        self._transcript.write("setup", options=options, tools=[_described(tool) for tool in tools])
        self._transcript.write("system", content=text)
        prompt = f"The task, as get_task tells it:\n\n{task.text}\n\nBegin."
        return ModelRequest([SystemPromptPart(text), *self._said_to([UserPromptPart(prompt)]).parts])

    async def _asked(
        self, conversation: Conversation, tools: Sequence[ToolDefinition]
    ) -> tuple[ModelResponse, list[ToolCallPart]]:
        """Return the model's answer, counted and kept, and the calls in it, also those it wrote as text.

        Raises:
            NoAnswerError: there is none.
        """
        while True:
            if left_out := conversation.fit():
                self._transcript.write("note", content=f"older messages were shortened by {left_out} characters")
            chars, before = conversation.chars, self._endpoint.tries
            try:
                response = await self._endpoint.ask(conversation.messages, tools)
                break
            except ContextFullError as exc:
                self._transcript.write("note", content=f"the context is full: {exc}")
                if not conversation.shrink():
                    raise NoAnswerError(f"not even a shortened request fits: {exc}", permanent=True) from exc
            finally:
                self._spending.requests += self._endpoint.tries - before
                self._note_retries()
        guess_out = sum(len(str(getattr(part, "content", getattr(part, "args", "")))) for part in response.parts)
        self._spending.add(response, conversation.tokens(chars), conversation.tokens(guess_out))
        conversation.learn(response.usage.input_tokens, chars)
        kept, calls = self._understood(response)
        self._note_response(response, calls)
        return kept, calls

    def _understood(self, response: ModelResponse) -> tuple[ModelResponse, list[ToolCallPart]]:
        """Return the answer as it goes into the conversation, bounded, and its calls.

        Where tools go over the protocol, calls that were written as text stand there as if they had, too.
        """
        native = self._options.tool_style == "native"
        calls = [_renamed(part) for part in response.parts if isinstance(part, ToolCallPart)]
        written: list[ToolCallPart] = []
        if not calls:
            text = "\n".join(part.content for part in response.parts if isinstance(part, TextPart))
            written = [
                ToolCallPart(_plain(call.name), clean(call.arguments)) for call in written_calls(text, self._known)
            ]
        parts: list[ModelResponsePart] = []
        for part in response.parts:
            if isinstance(part, ThinkingPart):
                parts.append(replace(part, content=clean(part.content)))
            elif isinstance(part, ToolCallPart) and native:
                parts.append(_renamed(part))
            elif isinstance(part, TextPart) and part.content.strip() and not (written and native):
                parts.append(replace(part, content=clean(shortened(part.content, _LONGEST_TEXT))))
        parts += written if native else []
        if not any(isinstance(part, ToolCallPart | TextPart) for part in parts):
            parts.append(TextPart("(nothing)"))
        return replace(response, parts=parts), calls or written

    async def _called(self, call: ToolCallPart) -> Result:
        """Make one call of the model's."""
        try:
            arguments = call.args_as_dict(raise_if_invalid=True)
        except (ValueError, AssertionError):
            text = f"The arguments of {call.tool_name} are not a JSON object: {shortened(str(call.args), 200)}"
            return Result(text, True, {}, {})
        if call.tool_name not in self._known:
            known = ", ".join(sorted(self._known))
            return Result(f"There is no tool {call.tool_name!r}. The tools are: {known}.", True, {}, {})
        if call.tool_name in ("validate", "submit"):
            return await self._caller.score("validate" if call.tool_name == "validate" else "submit")
        return await self._caller.call(call.tool_name, arguments)

    async def _stop(self, calls: Sequence[ToolCallPart], results: Sequence[Result]) -> tuple[StopReason, str] | None:
        """Return why to stop after these results, if there is a reason."""
        for call, result in zip(calls, results, strict=False):
            if call.tool_name == "submit" and result.structured.get("valid"):
                return "submitted", result.text
        if any(result.refused for result in results) and await self._caller.over():
            return "over", next(result.text for result in results if result.refused)
        self._mistakes = self._mistakes + 1 if all(r.is_error or r.refused for r in results) else 0
        if self._mistakes >= _MISTAKES:
            return "stuck", f"{_MISTAKES} answers in a row made only calls that failed: {results[-1].text[:300]}"
        now = (
            *((call.tool_name, call.args_as_json_str()) for call in calls),
            *(result.text for result in results),
        )
        self._last.append(hash(now))
        last = list(self._last)
        if last[-_CIRCLE:].count(last[-1]) == _CIRCLE or (len(last) == 2 * _CIRCLE and len(set(last)) <= 2):
            return "stuck", f"the same calls with the same results, {_CIRCLE} times: {calls[0].tool_name}"
        return None

    def _answered(self, calls: Sequence[ToolCallPart], results: Sequence[Result]) -> ModelRequest:
        """Return the request that carries the results back."""
        parts: list[ModelRequestPart] = []
        for place, call in enumerate(calls):
            text = results[place].text if place < len(results) else f"Not done: at most {_MOST_CALLS} calls at once."
            if self._options.tool_style == "native":
                parts.append(ToolReturnPart(call.tool_name, text or "(no output)", call.tool_call_id))
            elif place <= _MOST_CALLS:
                parts.append(UserPromptPart(f"Result of {call.tool_name}:\n{text or '(no output)'}"))
        self._note_results(calls, results)
        if not self._warned and (what := self._spending.spent(0.9)) is not None:
            self._warned = True
            parts += self._said_to([UserPromptPart(_SOON.format(what=what))]).parts
        return ModelRequest(parts)

    def _said_to(self, parts: Sequence[UserPromptPart]) -> ModelRequest:
        for part in parts:
            self._transcript.write("user", content=part.content)
        return ModelRequest(list(parts))

    def _note_retries(self) -> None:
        for words in self._retried:
            self._transcript.write("note", content=f"no answer: {words}")
        self._retried.clear()

    def _note_response(self, response: ModelResponse, calls: Sequence[ToolCallPart]) -> None:
        text = "".join(part.content for part in response.parts if isinstance(part, TextPart))
        thought = "".join(part.content for part in response.parts if isinstance(part, ThinkingPart))
        called = [{"id": call.tool_call_id, "name": call.tool_name, "arguments": call.args_as_dict()} for call in calls]
        usage = response.usage
        used = {"in": usage.input_tokens, "out": usage.output_tokens, "cached": usage.cache_read_tokens}
        extra: Mapping[str, Any] = {"thinking": thought} if thought else {}
        self._transcript.write("assistant", content=text, tool_calls=called, usage=used, **extra)

    def _note_results(self, calls: Sequence[ToolCallPart], results: Sequence[Result]) -> None:
        for call, result in zip(calls, results, strict=False):
            self._transcript.write(
                "tool", tool_call_id=call.tool_call_id, name=call.tool_name, content=result.text, error=result.is_error
            )

    def result(self, stop: StopReason, detail: str) -> AgentResult:
        """Return how it went until now."""
        self._note_retries()
        detail = self._transcript.clean(detail)
        self._transcript.write("note", content=f"stopped ({stop}): {detail}", stop=stop)
        spending = self._spending
        return AgentResult(
            steps=self._caller.made,
            stop=stop,
            detail=detail,
            requests=spending.requests,
            tokens_in=spending.tokens_in,
            tokens_out=spending.tokens_out,
            tokens_cached=spending.tokens_cached,
            estimated=spending.estimated,
            cost_usd=spending.cost_usd,
            messages=self._transcript.path,
        )


def _definition(tool: Tool) -> ToolDefinition:
    return ToolDefinition(
        name=tool.name, parameters_json_schema=dict(tool.input_schema), description=tool.description, strict=False
    )


def _described(tool: Tool) -> str:
    about = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    return json.dumps(about, ensure_ascii=False)


def _renamed(part: ToolCallPart) -> ToolCallPart:
    call: ToolCallPart[Any] = part
    return replace(call, tool_name=_plain(call.tool_name), args=clean(call.args))


def _plain(name: str) -> str:
    """Return a tool's name as every endpoint takes it back: models make up what they like."""
    return name if _PLAIN_NAME.fullmatch(name) else re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:64] or "unnamed"
