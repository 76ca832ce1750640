"""The methods, one paper per file or folder; :data:`METHODS` is where a new one is added.

Reading order: base (what all share); dpo, dpo_lw, modpo, mod, panacea; paretohqd, ric, sipo; morlhf, rewarded_soup.
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
        module, _, attribute = self.modules[name].partition(":")
        method: Method[Any] = getattr(import_module(f"{__name__}.{module}"), attribute or "METHOD")
        return method

    def written_card(self, name: str) -> dict[str, str]:
        """Return the card of a method as its file writes it: nothing of the file is run, so this is quick.

        Raises:
            KeyError: No method has the name.
        """
        module, _, attribute = self.modules[name].partition(":")
        source = Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py")
        for statement in ast.parse(source.read_text(encoding="utf-8")).body:
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            if any(isinstance(target, ast.Name) and target.id == (attribute or "METHOD") for target in targets):
                for call in ast.walk(statement):
                    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Card":
                        return {word.arg or "": _literal(word.value) for word in call.keywords}
        return vars(self[name].card)  # it is made in another way

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)


def _literal(expression: ast.expr) -> str:
    return str(ast.literal_eval(expression))


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
        "rewarded-soup": "rewarded_soup",
    }
)
