"""Keeps secrets out of what is written for others: keys, tokens, and whatever would open a session."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

_SHORTEST = 8
"""A known secret that is shorter would be found everywhere."""
_SECRET_NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL)S?$", re.IGNORECASE)
_PATTERNS = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"),
    re.compile(r"\bAIza[A-Za-z0-9_-]{30,}"),
    re.compile(r"\bgh[opsur]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}|\bglpat-[A-Za-z0-9_-]{16,}"),
    re.compile(r"\bhf_[A-Za-z0-9]{25,}"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"\bxox[a-z]-[A-Za-z0-9-]{10,}"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    re.compile(r"(?i)(?<=\bbearer )[A-Za-z0-9._~+/-]{12,}=*"),
    re.compile(r"(?<=/sessions/)[0-9a-f]{32}\b"),
    re.compile(r"\bmlgym-(?:player-)?[0-9a-f]{12,}(?:-[0-9a-f]+)?"),
)
"""What keys of the usual services, session URLs and sandboxes' names (of which a session's id is a part) look like."""
_CANDIDATE = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{32}(?![A-Za-z0-9_-])")
"""Session ids and tokens have 32 such characters."""
MARK = "[redacted]"


def secrets_of(environ: Mapping[str, str]) -> list[str]:
    """Return the values of the variables that are named like secrets."""
    return [value for name, value in environ.items() if _SECRET_NAMES.search(name)]


class Redactor:
    """Replaces secrets in texts, and counts them.

    Args:
        known: secrets to look for, whatever they look like.
        digests: SHA-256 of secrets that are known only by them: of a session's id and token.
    """

    def __init__(self, known: Iterable[str] = (), digests: Collection[str] = ()) -> None:
        self.found = 0
        self._known = tuple(sorted({text for text in known if len(text) >= _SHORTEST}, key=len, reverse=True))
        self._digests = frozenset(digests)

    def with_digests(self, digests: Collection[str]) -> Redactor:
        """Return one that knows these digests as well; it counts for itself."""
        return Redactor(self._known, self._digests | frozenset(digests))

    def text(self, text: str) -> str:
        """Return a text without secrets, which UTF-8 can hold."""
        if not text.isascii():
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        for secret in self._known:
            if secret in text:
                self.found += text.count(secret)
                text = text.replace(secret, MARK)
        for pattern in _PATTERNS:
            text, count = pattern.subn(MARK, text)
            self.found += count
        return _CANDIDATE.sub(self._candidate, text) if self._digests else text

    def value(self, value: Any) -> Any:
        """Return a value as strict JSON without secrets, in names as well."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(name)): self.value(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        return value

    def _candidate(self, found: re.Match[str]) -> str:
        if hashlib.sha256(found[0].encode()).hexdigest() not in self._digests:
            return found[0]
        self.found += 1
        return MARK
