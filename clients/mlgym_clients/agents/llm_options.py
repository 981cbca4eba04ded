"""Options of the agent ``llm``."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PROVIDERS = ("openai", "anthropic", "google")


class LlmOptions(BaseModel):
    """Which model, and how it is asked. Keys are never among them: only the name of the variable that holds one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        pattern=rf"^({'|'.join(PROVIDERS)}):\S+$",
        description="PROVIDER:NAME; the provider openai with a base_url is any endpoint that speaks its protocol.",
    )
    base_url: str | None = Field(
        default=None, pattern=r"^https?://[^@\s]+$", description="The endpoint, e.g. http://127.0.0.1:8000/v1 for vLLM."
    )
    api_key_env: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="The environment variable with the key; default: the provider's own. Without it: no key.",
    )
    stream: bool = Field(default=True, description="Whether answers are streamed.")
    tool_style: Literal["native", "text"] = Field(
        default="native",
        description="native: tools go over the protocol; text: they stand in the prompt, for endpoints without them.",
    )
    system: str = Field(default="", description="Added to the instructions.")
    temperature: float | None = Field(default=None, ge=0, le=2)
    seeded: bool = Field(default=False, description="Whether the attempt's seed is sent along.")
    max_output_tokens: int = Field(default=8192, ge=16, description="The most tokens of one answer.")
    context_tokens: int = Field(
        default=100_000, ge=2000, description="The most tokens of one request; older results are shortened beyond."
    )
    max_requests: int = Field(default=200, ge=1, description="The most answers of the model.")
    max_tokens: int | None = Field(default=None, ge=1, description="The most tokens in all, read and written.")
    max_cost_usd: float | None = Field(default=None, gt=0)
    max_seconds: float | None = Field(default=None, gt=0)
    retries: int = Field(default=6, ge=0, le=100, description="How often a failed request is repeated.")
    retry_s: float = Field(default=1.0, gt=0, description="The first pause before that; it doubles each time.")
    retry_most_s: float = Field(default=120.0, gt=0, description="The longest pause, whatever the endpoint asks for.")
    request_s: float = Field(default=600.0, gt=0, description="How long an endpoint may be silent.")
    price_in: float | None = Field(default=None, ge=0, description="USD for a million tokens read.")
    price_out: float | None = Field(default=None, ge=0, description="USD for a million tokens written.")
    price_cached: float | None = Field(default=None, ge=0, description="USD for a million tokens read from its cache.")
    extra_body: dict[str, Any] | None = Field(default=None, description="Sent along as it is, for endpoints' own keys.")

    @model_validator(mode="after")
    def _prices_together(self) -> Self:
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("price_in and price_out belong together")
        return self

    @property
    def provider(self) -> str:
        """The protocol that the endpoint speaks."""
        return self.model.partition(":")[0]

    @property
    def model_name(self) -> str:
        """The model's name at the endpoint."""
        return self.model.partition(":")[2]
