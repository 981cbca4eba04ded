"""The messages of a play, kept in a file of JSON lines that holds no key."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

FILE_NAME = "messages.jsonl"
_LONGEST = 200_000


class Transcript:
    """Writes messages as they come, each line whole and at once.

    A line is ``{"t": Unix time, "role": ..., "content": ..., ...}``. Roles: ``setup`` (the first line: agent, model,
    tools), ``system``, ``user``, ``assistant`` (with ``tool_calls`` and ``usage``), ``tool`` (with ``tool_call_id``),
    ``note`` (retries, trimming, why it stopped).
    """

    def __init__(self, folder: Path | None, secrets: tuple[str, ...] = ()) -> None:
        """Begin anew in a folder.

        Args:
            folder: where; ``None``: nothing is kept.
            secrets: never written, wherever they turn up.

        Raises:
            OSError: the file cannot be made.
        """
        self.path = None if folder is None else folder / FILE_NAME
        self._secrets = [secret for secret in secrets if len(secret) >= 4]
        self._file = None
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            self._file = open(descriptor, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, role: str, **fields: Any) -> None:
        """Write one message; texts without end are cut."""
        if self._file is None:
            return
        line = {"t": round(time.time(), 3), "role": role, **{key: self._kept(value) for key, value in fields.items()}}
        self._file.write(json.dumps(line, ensure_ascii=True, default=str) + "\n")
        self._file.flush()

    def clean(self, text: str) -> str:
        """Return a text without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text

    def _kept(self, value: Any) -> Any:
        if isinstance(value, str):
            cut = value if len(value) <= _LONGEST else f"{value[:_LONGEST]}[{len(value) - _LONGEST} characters cut]"
            return self.clean(cut)
        if isinstance(value, dict):
            return {self.clean(str(key)): self._kept(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._kept(item) for item in value]
        return value
