"""The leaderboard and plots of a sweep, or of any choice of episodes, kept until an episode changes."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
from markupsafe import Markup

from mlgym_mcp.catalog import Catalog, TaskError
from mlgym_mcp.records.html import inline
from mlgym_mcp.records.plots import pictures, rendered, style
from mlgym_mcp.records.report import Report, make_report
from mlgym_mcp.web.shelf import Shelf

_KEPT = 8
_STYLE = re.compile(r"<style\b[^>]*>.*?</style>", re.DOTALL)


@dataclass(slots=True)
class _Kept:
    stamp: tuple[object, ...]
    report: Report
    draws: dict[str, Callable[[], Any]]
    drawn: dict[str, Markup]


class Standings:
    """Makes reports over some of the episodes of a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._kept: OrderedDict[tuple[tuple[str, str], ...], _Kept] = OrderedDict()
        self._lock = anyio.Lock()
        try:
            self.catalog: Catalog | None = Catalog.default()
        except TaskError:
            self.catalog = None

    async def report(self, wanted: dict[str, str]) -> tuple[Report, list[str]]:
        """Return the report of the episodes that match some filters, and the names of its pictures."""
        async with self._lock:
            kept = await self._current(wanted)
        return kept.report, list(kept.draws)

    async def picture(self, wanted: dict[str, str], name: str) -> Markup | None:
        """Return a picture of that report, to stand in a page; ``None`` if it has none of that name.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        async with self._lock:  # one at a time: matplotlib knows no threads
            kept = await self._current(wanted)
            draw = kept.draws.get(name)
            if draw is None:
                return None
            if name not in kept.drawn:
                kept.drawn[name] = await anyio.to_thread.run_sync(_drawn, draw, name)
            return kept.drawn[name]

    async def _current(self, wanted: dict[str, str]) -> _Kept:
        key = tuple(sorted((name, value) for name, value in wanted.items() if value))
        stamp = await self._shelf.stamp()
        kept = self._kept.get(key)
        if kept is None or kept.stamp != stamp:
            attempts, problems = await self._shelf.attempts(wanted)
            sources = [str(root) for root in self._shelf.roots]
            report = await anyio.to_thread.run_sync(
                lambda: make_report(attempts, self.catalog, sources=sources, problems=problems)
            )
            kept = self._kept[key] = _Kept(stamp, report, dict(pictures(report)), {})
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return kept


def _drawn(draw: Callable[[], Any], name: str) -> Markup:
    with style():
        svg = rendered(draw(), "svg").decode()
    return Markup(_STYLE.sub("", inline(svg, name)))  # noqa: S704 - matplotlib escapes text
