"""Put what the control API says of itself into docs/api.md: python scripts/update-api-docs.py [--check]."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from mlgym_mcp.serving.control.api import guarded, open_to_all

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "api.md"
BEGIN, END = "<!-- from the OpenAPI document: scripts/update-api-docs.py -->\n", "<!-- end -->"
Schema = Mapping[str, Any]


def document() -> Schema:
    """Return the OpenAPI document."""
    app = FastAPI()
    app.include_router(guarded)
    app.include_router(open_to_all)
    return app.openapi()


def prose(text: str | None) -> str:
    """Return a docstring as one line of Markdown."""
    return re.sub(r"\s+", " ", (text or "").replace("``", "`")).strip().replace("|", "\\|")


def kind(schema: Schema) -> str:
    """Return what a schema takes, in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind(part) for part in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    extra = schema.get("additionalProperties")
    if schema.get("type") == "object" and isinstance(extra, Mapping):
        return f"object of {kind(extra)}"
    return str(schema.get("type", "anything"))


def table(fields: Mapping[str, Schema], required: list[str], what: str) -> Iterator[str]:
    """Yield a table of fields."""
    yield f"| {what} | takes | |"
    yield "|---|---|---|"
    for name, schema in fields.items():
        default = f" Default: `{schema['default']}`." if schema.get("default") not in (None, {}, []) else ""
        must = " Required." if name in required else ""
        words = f"{prose(schema.get('description'))}{must}{default}".strip()
        yield f"| `{name}` | {kind(schema)} | {words} |"
    yield ""


def lines(openapi: Schema) -> Iterator[str]:
    """Yield the document's generated part."""
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            yield f"### {method.upper()} {path}"
            yield ""
            yield prose(operation.get("description") or operation.get("summary"))
            yield ""
            parameters = {p["name"]: {**p["schema"], **p} for p in operation.get("parameters", [])}
            if parameters:
                must = [name for name, parameter in parameters.items() if parameter.get("required")]
                yield from table(parameters, must, "parameter")
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content:
                yield f"Body: {kind(content['schema'])}."
                yield ""
            answers = []
            for status, answer in sorted(operation["responses"].items()):
                given = answer.get("content", {}).get("application/json", {}).get("schema")
                shape = f" ({kind(given)})" if given and status < "300" else ""
                answers.append(f"`{status}`{shape}")
            yield f"Answers: {', '.join(answers)}."
            yield ""
    yield "## Bodies and answers"
    yield ""
    for name, schema in sorted(openapi["components"]["schemas"].items()):
        yield f"### {name}"
        yield ""
        yield prose(schema.get("description"))
        yield ""
        yield from table(schema.get("properties", {}), schema.get("required", []), "field")


def updated(text: str) -> str:
    """Return the document with the API as it is now."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n" + "\n".join(lines(document())).rstrip() + f"\n\n{END}{tail}"


if __name__ == "__main__":
    text = DOCUMENT.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        sys.exit(0 if updated(text) == text else f"{DOCUMENT} is out of date: python scripts/update-api-docs.py")
    DOCUMENT.write_text(updated(text), encoding="utf-8")
