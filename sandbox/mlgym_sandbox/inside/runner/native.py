"""The C halves of some modules of the standard library.

Their Python halves import ``enum``, ``re``, ``collections`` and more: 25 ms at every start of a sandbox, and
twice the memory to copy at every fork. Should an interpreter lack a C half, the whole module is taken instead.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any
else:
    try:
        import _signal as signal  # numbers instead of enumerations
    except ImportError:
        import signal

__all__ = ["accept", "dumps", "libc", "loads", "signal"]


# --- JSON


class Form:
    """What the scanner of ``json`` asks its decoder for."""

    def __init__(self) -> None:
        self.strict = True
        self.object_hook = self.object_pairs_hook = self.array_hook = None
        self.parse_float, self.parse_int, self.parse_constant = float, int, float
        self.memo: dict[str, str] = {}


def not_serializable(value: object) -> object:
    raise TypeError("%r cannot be written as JSON" % (value,))


def json_functions() -> tuple[Callable[[Any], str], Callable[[bytes], Any]]:
    """Return ``dumps`` and ``loads``."""
    try:
        import _json

        form: Any = Form()
        write: Any = _json.make_encoder(
            None, not_serializable, _json.encode_basestring_ascii, None, ":", ",", False, False, True
        )
        scan: Any = _json.make_scanner(form)

        def quick_dumps(value: Any) -> str:
            return "".join(write(value, 0))

        def quick_loads(data: bytes) -> Any:
            text = data.decode("utf-8", "surrogatepass").strip(" \t\r\n")
            try:
                value, end = scan(text, 0)
            except StopIteration:
                raise ValueError("not JSON") from None
            if end != len(text):
                raise ValueError("more than one JSON value")
            return value

        sample = {"a": [1, 2.5, "b\u20ac", None, True, {}]}
        if quick_loads(quick_dumps(sample).encode()) == sample:
            return quick_dumps, quick_loads
    except Exception:
        pass  # an interpreter with other inner works
    import json

    return lambda value: json.dumps(value, separators=(",", ":")), json.loads


dumps, loads = json_functions()


# --- the C library


def libc(name: str, *arguments: int | bytes) -> int:
    """Call a function of the C library that takes ints and pointers and returns an int."""
    result: int
    try:
        import _ctypes

        this_program: Any = None
        function = _ctypes.dlsym(_ctypes.dlopen(this_program, 0), name)
        result = _ctypes.call_cdeclfunction(function, arguments)
    except (ImportError, AttributeError):
        import ctypes

        result = getattr(ctypes.CDLL(None), name)(*arguments)
    return result


# --- sockets


def accept(listener: int) -> int:
    """Accept a connection on a listening socket (non-blocking, not inherited).

    Raises:
        OSError: there is none.
    """
    import _socket

    borrowed: Any = _socket.socket(fileno=listener)
    try:
        fd: int = borrowed._accept()[0]
        return fd
    finally:
        borrowed.detach()
