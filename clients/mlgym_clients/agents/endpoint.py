"""A model behind an endpoint: one request at a time, repeated with growing pauses while that may help."""

from __future__ import annotations

import os
import random
import re
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import anyio
import httpx2
from anthropic import AnthropicError
from google.genai.errors import APIError as GoogleError
from openai import OpenAIError
from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelAuthenticationError,
    ModelContextWindowExceededError,
    ModelHTTPError,
    ModelNotFoundError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    UnexpectedModelBehavior,
)
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from mlgym_clients.agents.llm_options import LlmOptions
from mlgym_clients.tls import tls_context

_KEYS = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "google": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
}
_LARGEST = 32 << 20
"""Bytes of one answer. No model says that much; a broken endpoint may."""

_FINAL = (ModelAuthenticationError, ModelNotFoundError, ModelQuotaExceededError, ModelRequestRejectedError)
_PASSING = (
    ModelAPIError, UnexpectedModelBehavior, httpx2.HTTPError, OpenAIError, AnthropicError, GoogleError, OSError,
    ValueError, AssertionError,
)  # fmt: skip
"""What may be otherwise the next time: refused, broken off, or an answer that no parser understands."""

_FULL = re.compile(
    r"context.{0,20}(length|window|size|limit)|too long|too many tokens|maximum.{0,20}tokens", re.IGNORECASE
)


class ContextFullError(Exception):
    """The endpoint says that the messages do not fit the model's context."""


class NoAnswerError(Exception):
    """All tries failed, or another would too; the message says why. The agent tells its caller."""

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.permanent = permanent


class _CutError(ValueError):
    """A stream ended before the answer did."""


def key_of(options: LlmOptions) -> str | None:
    """Return the key that the environment holds for a model.

    Raises:
        NoAnswerError: the variable that the options name is not set.
    """
    if options.api_key_env is not None:
        key = os.environ.get(options.api_key_env)
        if not key:
            raise NoAnswerError(f"the environment variable {options.api_key_env} is not set", permanent=True)
        return key
    if options.base_url is not None:
        return None  # an address of one's own must not be handed the provider's key
    return next((key for name in _KEYS[options.provider] if (key := os.environ.get(name))), None)


class Endpoint:
    """Asks one model. Use it as an asynchronous context manager.

    Args:
        options: which model, and how.
        seed: sent along if the options say so; also decides the pauses.
        on_retry: told of every failed try.

    Raises:
        NoAnswerError: there is no key.
    """

    def __init__(self, options: LlmOptions, seed: int, on_retry: Callable[[str], None]) -> None:
        self.options = options
        self.key = key_of(options)
        self.tries = 0
        """Requests sent, answered or not."""
        self._draw = random.Random(seed)
        self._on_retry = on_retry
        if self.key is None and options.base_url is None:
            names = " or ".join(_KEYS[options.provider])
            what = f"{options.model} needs a key: set {names}, or name a variable in api_key_env"
            raise NoAnswerError(what, permanent=True)
        timeout = httpx2.Timeout(options.request_s, connect=min(10.0, options.request_s))
        self._http = httpx2.AsyncClient(timeout=timeout, verify=tls_context(), event_hooks={"response": [_bound]})
        self._model = _model(options, self.key, self._http)
        self._settings = _settings(options, seed)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._http.__aexit__(kind, error, trace)

    async def ask(self, messages: Sequence[ModelMessage], tools: Sequence[ToolDefinition]) -> ModelResponse:
        """Return the model's answer.

        Raises:
            ContextFullError: the messages are too long for it.
            NoAnswerError: there is none.
        """
        parameters = ModelRequestParameters(function_tools=list(tools))
        failed = 0
        while True:
            self.tries += 1
            try:
                return await self._once(messages, parameters)
            except ModelContextWindowExceededError as exc:
                raise ContextFullError(self._words(exc)) from None
            except _FINAL as exc:
                if isinstance(exc, ModelRequestRejectedError) and _FULL.search(str(exc)):
                    raise ContextFullError(self._words(exc)) from None
                raise NoAnswerError(self._words(exc), permanent=True) from None
            except _PASSING as exc:
                words = self._words(exc)
                failed += 1
                if failed > self.options.retries:
                    raise NoAnswerError(f"{words} ({failed} tries)", permanent=False) from None
                pause = self._pause(failed, exc)
            self._on_retry(f"{words}; next try in {pause:.1f} s")
            await anyio.sleep(pause)

    async def _once(self, messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        if not self.options.stream:
            return await model_request(
                self._model, messages, model_settings=self._settings, model_request_parameters=parameters
            )
        async with model_request_stream(
            self._model, messages, model_settings=self._settings, model_request_parameters=parameters
        ) as stream:
            async for _ in stream:
                pass
            response = stream.get()
        if response.finish_reason is None:
            raise _CutError("the stream ended before the answer did")
        return response

    def _pause(self, failed: int, error: Exception) -> float:
        """Return how many seconds to wait: what the endpoint asks for, or twice as long each time, with chance."""
        options = self.options
        asked = error.retry_after if isinstance(error, ModelAPIError) else None
        growing = options.retry_s * 2.0 ** min(failed - 1, 20) * (0.5 + self._draw.random() / 2)
        if asked is None and isinstance(error, ModelRateLimitError):
            growing *= 2
        return min(options.retry_most_s, growing if asked is None else max(asked, growing / 4))

    def _words(self, error: Exception) -> str:
        """Return an error in a line, without the key."""
        status = f"HTTP {error.status_code}: " if isinstance(error, ModelHTTPError) else ""
        text = error.body if isinstance(error, ModelAPIError) and error.body else error
        line = " ".join(f"{status}{text}".split())[:500] or type(error).__name__
        where = self.options.base_url or self.options.provider
        return f"{where}: {line}".replace(self.key or "\0", "[key]")


def _model(options: LlmOptions, key: str | None, http: httpx2.AsyncClient) -> Model[Any]:
    name, given = options.model_name, key or "none"
    if options.provider == "anthropic":
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        anthropic = AnthropicProvider(api_key=given, base_url=options.base_url, http_client=http)
        return AnthropicModel(name, provider=anthropic)
    if options.provider == "google":
        from pydantic_ai.models.google import GoogleModel
        from pydantic_ai.providers.google import GoogleProvider

        google = GoogleProvider(api_key=given, base_url=options.base_url, http_client=http)
        return GoogleModel(name, provider=google)
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.profiles.openai import OpenAIModelProfile
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    whole = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
    if options.base_url is None:
        return OpenAIChatModel(name, provider=OpenAIProvider(api_key=given, http_client=http), profile=whole)
    own = OpenAICompatibleProvider("own", base_url=options.base_url, api_key=given, http_client=http)
    whole["openai_chat_supports_max_completion_tokens"] = False  # max_tokens is what all of them know
    return OpenAIChatModel(name, provider=own, profile=whole)


def _settings(options: LlmOptions, seed: int) -> ModelSettings:
    settings = ModelSettings(max_tokens=options.max_output_tokens, max_retries=0)
    if options.temperature is not None:
        settings["temperature"] = options.temperature
    if options.seeded and options.provider != "anthropic":
        settings["seed"] = seed % 2**31
    if options.provider == "anthropic":
        settings["cache"] = True  # elsewhere it happens by itself
    if options.extra_body is not None:
        settings["extra_body"] = options.extra_body
    return settings


class _Bounded(httpx2.AsyncByteStream):
    """A body that breaks off when it is too large."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        count = 0
        async for chunk in self._stream:
            count += len(chunk)
            if count > _LARGEST:
                raise httpx2.RemoteProtocolError(f"the answer is larger than {_LARGEST >> 20} MiB")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound(response: httpx2.Response) -> None:
    if isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Bounded(response.stream)
