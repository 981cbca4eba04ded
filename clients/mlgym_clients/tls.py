"""The TLS settings of all connections: made once, for that is what makes an HTTP client costly."""

from __future__ import annotations

import ssl
from functools import cache

import httpx2


@cache
def tls_context() -> ssl.SSLContext:
    """Return the context with the HTTP library's usual trust."""
    return httpx2.create_ssl_context()
