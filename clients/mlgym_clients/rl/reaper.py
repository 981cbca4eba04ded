"""Ends the sessions of programs that are gone: a small process of its own, which only the standard library loads.

``python -m mlgym_clients.rl.reaper`` reads JSON lines: ``{"watch": ID, "url": SERVER, "token": ADMIN-TOKEN, "away_s":
SECONDS}`` names a session, and how long its server may be away; ``{"forget": ID}`` says that it has ended, ``{"end":
ID}`` wants it ended. When standard input ends, which it also does when the program that writes is killed, all that are
still watched are ended.
"""

from __future__ import annotations

import http.client
import json
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from typing import Any

_PATIENCE_S = 120.0
"""The last grading of a session takes a while."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_LATER = frozenset({429, 502, 503, 504})


def end(url: str, token: str, session: str, away_s: float) -> None:
    """End a session; a server that is gone has none, but one that is only away goes on with it when it is back.

    Args:
        url: of the server.
        token: its admin token.
        session: which.
        away_s: for so long it may be away.
    """
    request = urllib.request.Request(  # noqa: S310 - what the owner gave
        f"{url.rstrip('/')}/api/sessions/{session}", method="DELETE", headers={"Authorization": f"Bearer {token}"}
    )
    pause, until = _FIRST_PAUSE_S, time.monotonic() + away_s
    while True:
        try:
            urllib.request.urlopen(request, timeout=_PATIENCE_S).close()  # noqa: S310
        except urllib.error.HTTPError as exc:
            exc.close()
            if exc.code not in _LATER:
                return
        except (OSError, ValueError, http.client.HTTPException):
            pass
        else:
            return
        if time.monotonic() + pause > until:
            return
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE_S, 2 * pause)


def reap(lines: Iterable[str]) -> None:
    """Do what the lines say, and end at their end what is left."""
    watched: dict[str, tuple[str, str, float]] = {}
    ending: list[threading.Thread] = []

    def begin_to_end(session: str) -> None:
        url, token, away_s = watched.pop(session)
        thread = threading.Thread(target=end, args=(url, token, session, away_s))
        thread.start()
        ending.append(thread)

    for line in lines:
        order: dict[str, Any] = json.loads(line)
        if "watch" in order:
            watched[order["watch"]] = (order["url"], order["token"], order["away_s"])
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
