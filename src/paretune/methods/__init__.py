"""The methods, one paper per file or folder; :data:`METHODS` is where a new one is added.

Reading order: base (what all share); dpo, dpo_lw, modpo, mod, panacea; paretohqd, ric, sipo; morlhf, mo_odpo, rewarded_soup,
bone_soup; spo, hpo, mrpo, knowpat, spa; prompting, linear_alignment; vas; parts.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paretune.methods.base import Method


class Methods(Mapping[str, "Method[Any]"]):
    """Name -> method. A method's module is loaded when the method is looked up, so listing the names loads no torch.

    Attributes:
        modules: Name -> module below this package that ends with ``METHOD``; ``MODULE:ATTRIBUTE`` for another attribute.
    """

    def __init__(self, modules: dict[str, str]) -> None:
        self.modules = modules

    def __getitem__(self, name: str) -> Method[Any]:
        module, attribute = self._place(name)
        method: Method[Any] = getattr(import_module(f"{__name__}.{module}"), attribute)
        return method

    def _place(self, name: str) -> tuple[str, str]:
        module, _, attribute = self.modules[name].partition(":")
        return module, attribute or "METHOD"

    def cards(self) -> dict[str, dict[str, str]]:
        """Return name -> the fields of its :class:`paretune.methods.base.Card`, without loading the methods, and so without torch.

        A card is a call with plain text in the method's file, and is read there. A method whose card is made otherwise is loaded.
        """
        cards = {}
        for name in self.modules:
            module, attribute = self._place(name)
            file = Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py")
            cards[name] = _written_card(file, attribute) or dict(vars(self[name].card))
        return cards

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)


def _written_card(file: Path, attribute: str) -> dict[str, str] | None:
    """Return the keywords of the one ``Card(...)`` in what the file assigns to ``attribute``; None where they are no plain text."""
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


METHODS = Methods(
    {
        "dpo-soup": "dpo",
        "mod": "mod",
        "modpo": "modpo",
        "panacea": "panacea",
        "dpo-lw": "dpo_lw",
        "paretohqd": "paretohqd.method",
        "ric": "ric.method",
        "sipo": "sipo.method",
        "morlhf": "morlhf",
        "gdpo": "morlhf:GDPO",
        "mo-odpo": "mo_odpo",
        "rewarded-soup": "rewarded_soup",
        "bone-soup": "bone_soup",
        "spo": "spo",
        "hpo": "hpo",
        "mrpo": "mrpo",
        "knowpat": "knowpat",
        "spa": "spa",
        "prompting": "prompting",
        "linear-alignment": "linear_alignment",
        "vas": "vas",
    }
)
