"""Ends the sessions of programs that are gone: a small process of its own, which only the standard library loads.

``python -m mlgym_clients.rl.reaper`` reads JSON lines: ``{"watch": ID, "url": SERVER, "token": ADMIN-TOKEN}`` names a
session, ``{"forget": ID}`` says that it has ended, ``{"end": ID}`` wants it ended. When standard input ends, which it
also does when the program that writes is killed, all that are still watched are ended.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import urllib.request
from collections.abc import Iterable
from typing import Any

_PATIENCE_S = 120.0
"""The last grading of a session takes a while."""


def end(url: str, token: str, session: str) -> None:
    """End a session; a server that is gone has none."""
    request = urllib.request.Request(  # noqa: S310 - what the owner gave
        f"{url.rstrip('/')}/api/sessions/{session}", method="DELETE", headers={"Authorization": f"Bearer {token}"}
    )
    with contextlib.suppress(OSError, ValueError):
        urllib.request.urlopen(request, timeout=_PATIENCE_S).close()  # noqa: S310


def reap(lines: Iterable[str]) -> None:
    """Do what the lines say, and end at their end what is left."""
    watched: dict[str, tuple[str, str]] = {}
    ending: list[threading.Thread] = []

    def begin_to_end(session: str) -> None:
        url, token = watched.pop(session)
        thread = threading.Thread(target=end, args=(url, token, session))
        thread.start()
        ending.append(thread)

    for line in lines:
        order: dict[str, Any] = json.loads(line)
        if "watch" in order:
            watched[order["watch"]] = (order["url"], order["token"])
        elif "forget" in order:
            watched.pop(order["forget"], None)
        elif order.get("end") in watched:
            begin_to_end(order["end"])
        ending = [thread for thread in ending if thread.is_alive()]
    for session in list(watched):
        begin_to_end(session)
    for thread in ending:
        thread.join()


def main() -> None:
    """Run until the owner is gone; the terminal's signals are the owner's."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    reap(sys.stdin)


if __name__ == "__main__":
    main()
