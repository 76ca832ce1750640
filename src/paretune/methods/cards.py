"""The cards of the methods without loading them, and so without torch: ``paretune methods`` answers at once."""

from __future__ import annotations

import ast
from pathlib import Path

from paretune.methods import METHODS

METHOD = "METHOD"


def cards() -> dict[str, dict[str, str]]:
    """Return name -> the fields of :class:`paretune.methods.base.Card`, for every method.

    A card is a call with plain text in the method's file, and is read there. A method whose card is made otherwise is loaded.
    """
    read = {}
    for name, module in METHODS.modules.items():
        stem, _, attribute = module.partition(":")
        file = Path(__file__).parent.joinpath(*stem.split(".")).with_suffix(".py")
        read[name] = _written(file, attribute or METHOD) or dict(vars(METHODS[name].card))
    return read


def _written(file: Path, attribute: str) -> dict[str, str] | None:
    """Return the keywords of the only ``Card(...)`` in what the file assigns to ``attribute``; None where that is not plain text."""
    if not file.is_file():  # a method that is not a file of this package
        return None
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and attribute in [ast.unparse(t) for t in statement.targets]:
            calls = [
                node
                for node in ast.walk(statement.value)
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "Card" and not node.args
            ]
            if len(calls) != 1:
                return None
            try:
                return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in calls[0].keywords}
            except ValueError:
                return None
    return None
