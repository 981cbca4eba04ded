"""Loading libraries quickly: what they make stays, so nobody looks through it for garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Import in the block, and do nothing else: no garbage is collected, and what is there afterwards never is.

    Python would look through all objects again and again while their number grows, which takes a tenth of a
    server's start, then once more at its end, and now and then while it serves.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
