"""A Python function of the user in a process of its own: whatever it does there, the run lives on and says what happened.

The run starts ``python function_process.py`` and talks to it in lines of JSON over two pipes. In that process the function may
print, close its output, change the working folder or torch's settings, fork, exit or hang. Nothing of it reaches the run but
numbers and reasons. This file is run as a script, so it imports only the standard library.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import inspect
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import Any

Answer = dict[str, Any]

LARGEST = 1e30
"""Largest score: beyond it squares and products in float32 overflow, so that no mean or deviation can be computed."""


def reason(error: BaseException) -> str:
    """Return an exception in one line, by its class and words."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def found(name: str) -> tuple[Callable[..., Any] | None, Answer]:
    """Import ``module:function`` and return the function with an answer: its file, or what is wrong.

    The answer of a failure has ``error``, and ``names``, the functions that there are.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except BaseException as error:  # noqa: BLE001 - a user's module may raise anything, and even exit
        return None, {"error": f"module {module_name!r} cannot be imported ({reason(error)})"}
    call = vars(module).get(attribute)
    if not callable(call):
        names = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        return None, {"error": "", "names": names}
    return call, {"file": getattr(module, "__file__", None) or ""}


def rated(call: Callable[..., Any], prompts: Sequence[Any], responses: Sequence[str]) -> Answer:
    """Return the numbers that the function gives some rows, or what is wrong, and with which row where one row fails alone."""
    try:
        return _numbers(call(prompts, list(responses)), len(responses))
    except BaseException as error:  # noqa: BLE001 - as above
        for row in range(len(responses)):
            try:
                _numbers(call(prompts[row : row + 1], list(responses[row : row + 1])), 1)
            except BaseException as again:  # noqa: BLE001
                return {"error": f"raised {reason(again)}", "row": row}
        rows = f"{len(responses)} rows together, but on no single row"
        return {"error": f"raised {reason(error)} (on {rows})"}


def _numbers(values: Any, count: int) -> Answer:
    shape = getattr(values, "shape", None)
    no_list = {"error": f"returned {_shown(values)}, expected a list of {count} numbers, one per response"}
    if isinstance(values, (str, bytes, Mapping, Set)):  # these hold something else, or in another order
        return no_list
    if not hasattr(values, "__iter__") or shape == ():
        return no_list
    listed = list(islice(values, count + 1))
    if len(listed) != count or (shape is not None and len(shape) != 1):
        more = " or more" if shape is None and len(listed) > count else ""
        given = tuple(shape) if shape is not None else (len(listed),)
        return {
            "error": f"returned shape {given}{more} for {count} responses, expected ({count},): one number per response"
        }
    numbers = []
    for row, value in enumerate(listed):
        number, fault = _number(value)
        if fault:
            return {"error": fault, "row": row}
        numbers.append(number)
    return {"scores": numbers}


def _number(value: Any) -> tuple[float, str]:
    """Return a value as a number, with what is wrong with it where something is."""
    plain = (
        value.item() if hasattr(value, "item") and not isinstance(value, (bool, int, float, str)) else value
    )
    if isinstance(plain, bool) or not isinstance(plain, (int, float)):
        return (
            0.0,
            f"returned {_shown(plain)}, expected a number (text, True, False and None are not numbers)",
        )
    try:
        number = float(plain)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        given = _shown(plain) if isinstance(plain, float) else "a whole number beyond float64"
        return 0.0, f"returned {given}, expected a finite number"
    if abs(number) > LARGEST:
        return 0.0, f"returned {number:g}, expected a number of at most {LARGEST:g}"
    return number, ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send what the function prints to standard error, whose owner is the run."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _end_with(parent: int) -> None:
    """End this process when the run has ended without a word, even while the function hangs."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


def serve(name: str, asked: int, answered: int) -> None:
    """Answer lines of JSON until the run closes the pipe; the first line is the path to search modules on."""
    own = os.getpid()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()

    def tell(answer: Answer) -> None:
        if os.getpid() != own:  # the function has forked: the copy has nothing to say
            os._exit(0)
        line = json.dumps(answer).encode() + b"\n"
        while line:
            line = line[os.write(answered, line) :]

    with os.fdopen(asked, "rb", closefd=False) as requests:
        sys.path[:] = json.loads(requests.readline())
        with _quiet():
            call, answer = found(name)
        tell(answer)
        if call is None:
            return
        for line in requests:
            request = json.loads(line)
            with _quiet():
                answer = rated(call, request["prompts"], request["responses"])
            tell(answer)


if __name__ == "__main__":
    faulthandler.register(
        signal.SIGUSR1, all_threads=False
    )  # by which the run asks where the function stands
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to hear
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
