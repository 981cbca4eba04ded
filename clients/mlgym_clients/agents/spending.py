"""What a model's answers cost: tokens and dollars, added up."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from pydantic_ai.messages import ModelResponse

from mlgym_clients.agents.llm_options import LlmOptions


class UnknownPriceError(ValueError):
    """A cost limit was set for a model whose price nobody knows."""


@dataclass
class Spending:
    """Tokens and dollars of one play; ``cost_usd`` is ``None`` as soon as an answer's price is not known."""

    options: LlmOptions
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    estimated: bool = False
    cost_usd: float | None = 0.0

    def __post_init__(self) -> None:
        if self.options.max_cost_usd is not None and self._price(1, 0, 1) is None:
            raise UnknownPriceError(
                f"max_cost_usd is set, but no price of {self.options.model} is known: set price_in and price_out "
                "(USD for a million tokens)"
            )

    def add(self, response: ModelResponse, guess_in: int, guess_out: int) -> None:
        """Count an answer; where the endpoint reported no tokens, the guesses count."""
        usage = response.usage
        tokens_in, tokens_out = usage.input_tokens, usage.output_tokens
        if not tokens_in and not tokens_out:
            tokens_in, tokens_out, self.estimated = guess_in, guess_out, True
        cached = min(usage.cache_read_tokens, tokens_in)
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        self.tokens_cached += cached
        price = self._price(tokens_in, cached, tokens_out, usage.cache_write_tokens)
        self.cost_usd = None if price is None or self.cost_usd is None else self.cost_usd + price

    def spent(self, share: float = 1.0) -> str | None:
        """Return which limit has been reached, or a share of it, in a sentence."""
        options, tokens = self.options, self.tokens_in + self.tokens_out
        if self.requests >= options.max_requests * share:
            return f"{self.requests} of {options.max_requests} requests are spent"
        if options.max_tokens is not None and tokens >= options.max_tokens * share:
            return f"{tokens} of {options.max_tokens} tokens are spent"
        if options.max_cost_usd is not None and (self.cost_usd or 0.0) >= options.max_cost_usd * share:
            return f"{self.cost_usd:.4f} of {options.max_cost_usd:g} USD are spent"
        return None

    def _price(self, tokens_in: int, cached: int, tokens_out: int, written: int = 0) -> float | None:
        """Return the dollars for some tokens: by the prices in the options, or by the list that comes with the library.

        A model at an address of one's own has no list price, whatever its name is.
        """
        options = self.options
        if options.price_in is not None and options.price_out is not None:
            of_cached = options.price_in if options.price_cached is None else options.price_cached
            plain = options.price_in * (tokens_in - cached)
            return (plain + of_cached * cached + options.price_out * tokens_out) / 1e6
        if options.base_url is not None:
            return None
        usage = PricedUsage(
            input_tokens=tokens_in, output_tokens=tokens_out, cache_read_tokens=cached, cache_write_tokens=written
        )
        try:
            total: Decimal = calc_price(usage, options.model_name, provider_id=options.provider).total_price
        except (LookupError, ValueError):
            return None
        return float(total)
