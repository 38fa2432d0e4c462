"""Rendering of chat templates that ends: a template is a program, and a damaged one may loop."""

import ctypes
import threading
from collections.abc import Callable

# A dialogue takes milliseconds.
RENDER_SECONDS = 10.0


class _Stopped(BaseException):
    """Raised in a thread that renders for too long."""


def render_bounded(render: "Callable[[], str]", seconds: "float | None" = None) -> str:
    """The result of a chat template, or an error after a while.

    Args:
        render (`Callable`): renders a dialogue; it runs on a thread of its own.
        seconds (`float`, *optional*): how long it may take, `RENDER_SECONDS` by default.

    Raises:
        ValueError: the template fails, loops, or renders something other than a text.
    """
    seconds = RENDER_SECONDS if seconds is None else seconds
    found: list = []

    def work() -> None:
        try:
            found.append((render(), None))
        except BaseException as error:
            found.append((None, error))

    thread = threading.Thread(target=work, name="chat template", daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        _stop(thread)
        raise ValueError(
            f"The chat template did not end within {seconds:g} seconds: it loops. Load the release's own "
            "chat_template.jinja again."
        )
    text, error = found[0]
    if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
        raise error
    if error is not None:
        first = f"{type(error).__name__}: {error}".split("\n")[0]
        raise ValueError(f"The chat template cannot render this dialogue ({first:.200}).") from error
    if not isinstance(text, str):
        raise ValueError(f"The chat template renders {type(text).__name__}, not a text.")
    return text


def _stop(thread: threading.Thread) -> None:
    """Ends a thread that runs Python code; where that is not possible it goes on beside."""
    try:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Stopped))
    except (AttributeError, TypeError):  # not CPython
        return


__all__ = ["RENDER_SECONDS", "render_bounded"]
