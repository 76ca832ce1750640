"""Mistakes in options and arguments, told as every other mistake is: in one line that names the option and what was given."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer
from annotated_types import Ge, Gt, Le, Lt
from typer.core import TyperGroup

from paretune.core.bounds import described
from paretune.core.settings_words import complaint

if TYPE_CHECKING:
    from pydantic import ValidationError

REFUSAL: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)
"""What all mistakes in options are; typer gives its subclasses out, but not this class."""

PROGRAM = "paretune"
"""Its name in usage lines and for completion, however it is started."""
_KINDS = {"int": int, "float": float, "bool": bool}
_BOUNDS = {"ge": Ge, "gt": Gt, "le": Le, "lt": Lt}


class Commands(TyperGroup):
    """The commands; a mistake in options ends with exit code 2 and one line."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and end the process, or return what it returned where ``standalone_mode`` is off."""
        try:
            result = super().main(
                args, prog_name or PROGRAM, complete_var, False, windows_expand_args, **extra
            )
        except typer.Abort:
            result = 1
        except REFUSAL as error:
            result = _told(error)
        if standalone_mode:
            sys.exit(result if isinstance(result, int) else 0)
        return result


def _told(error: Any) -> int:
    """Print the message of a refusal and return its exit code."""
    from pydantic import ValidationError  # the help needs none of it

    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    text = str(error.format_message())
    if isinstance(error.__cause__, ValidationError):
        text = text.replace(error.message, _in_words(error.__cause__))
    context = error.ctx
    help_ = f"; see `{context.command_path} --help`" if context is not None else ""
    typer.secho(f"paretune: {' '.join(text.split()).rstrip('.')}{help_}", fg="red", err=True)
    return int(error.exit_code)


def _in_words(error: ValidationError) -> str:
    """Return what typer's parser of values found: what was expected, and what was given."""
    finding = error.errors()[0]
    kind = _KINDS.get(finding["type"].partition("_")[0])
    if kind is not None:
        return complaint(kind, finding["input"])
    bounds = tuple(_BOUNDS[name](value) for name, value in finding.get("ctx", {}).items() if name in _BOUNDS)
    if bounds:
        return f"must be {described(bounds)}, got {finding['input']}"
    return f"{finding['msg']}, got {finding['input']!r:.60}"
