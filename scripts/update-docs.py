"""Put what task.toml files record into docs/tasks.md: python scripts/update-docs.py [--check]."""

from __future__ import annotations

import sys
from pathlib import Path

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.catalog.catalog import shipped_tasks
from mlgym_mcp.cli.task_table import markdown_table

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "tasks.md"
BEGIN, END = "<!-- recorded figures: scripts/update-docs.py -->\n", "<!-- end -->"


def updated(text: str) -> str:
    """The document with the table as it is recorded now."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{markdown_table(Catalog([shipped_tasks()]).tasks())}\n\n{END}{tail}"


if __name__ == "__main__":
    text = DOCUMENT.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        sys.exit(0 if updated(text) == text else f"{DOCUMENT} is out of date: python scripts/update-docs.py")
    DOCUMENT.write_text(updated(text), encoding="utf-8")
