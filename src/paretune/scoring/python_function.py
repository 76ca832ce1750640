"""The scorer that calls a Python function of the user."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.errors import ConfigError, ScoreError, suggest
from paretune.core.files import fingerprint
from paretune.data.rows import Prompt
from paretune.scoring.function_scorer import FunctionScorer, RowScoreError, checked, from_function


def python_function(objective: str, function: str) -> FunctionScorer:
    """Score with a Python function named ``module:function``; the working folder is searched too.

    The function receives the prompts (each a list of ``{"role", "content"}``) and the responses (a list of str) of some
    rows. It returns one finite float per row, higher is better, and judges each row alone. Editing the module's source
    file invalidates cached scores; editing the modules that it imports does not.

    Raises:
        ConfigError: There is no such module or function.
        ScoreError: When called, the function raises, or returns something else; names the function and the row.
    """
    call, source = _import_function(function)

    def one(prompts: Sequence[Prompt], responses: Sequence[str]) -> Any:
        return call([[{"role": m.role, "content": m.content} for m in p] for p in prompts], list(responses))

    def run(prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]) -> np.ndarray:
        try:
            values = one(prompts, responses)
        except Exception as error:
            # The user's code may raise anything; calling it row by row finds the row to name.
            for row in range(len(responses)):
                try:
                    one(prompts[row : row + 1], responses[row : row + 1])
                except Exception as again:
                    raise RowScoreError(row, _failure(function, again)) from again
            raise ScoreError(
                f"{_failure(function, error)} (on {len(responses)} rows together, but on no single row)"
            ) from error
        try:
            return checked(values, len(responses), objective)
        except RowScoreError as error:
            raise RowScoreError(error.row, f"function {function!r}: {error.reason}") from error
        except ScoreError as error:
            raise ScoreError(f"function {function!r}: {error}") from error

    return from_function(objective, fingerprint(["function", function], source), run)


def _failure(function: str, error: Exception) -> str:
    return f"function {function!r} raised {type(error).__name__}: {error}"


def _import_function(name: str) -> tuple[Callable[..., Any], bytes]:
    module_name, separator, attribute = name.partition(":")
    if not (separator and module_name and attribute):
        raise ConfigError(f"function: {name!r}: expected module:function, for example my_scores:politeness")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)  # last, so that no file of the working folder hides an installed module
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(
            f"function: {name!r}: module {module_name!r} cannot be imported ({error}); "
            "run from its folder, install it, or put its folder on PYTHONPATH"
        ) from error
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
    call = vars(module).get(attribute)
    if not callable(call):
        names = [k for k, v in vars(module).items() if inspect.isfunction(v)]
        raise ConfigError(
            f"function: {name!r}: {module_name} has no function {attribute!r}: {suggest(attribute, names)}"
        )
    file = getattr(module, "__file__", None)
    return call, Path(file).read_bytes() if file else b""
