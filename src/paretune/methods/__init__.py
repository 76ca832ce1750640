"""The methods, one paper per file or folder; :data:`METHODS` is where a new one is added.

Reading order: base (what all share), cards; dpo, dpo_lw, modpo, mod, panacea; paretohqd, ric, sipo; morlhf, rewarded_soup.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
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

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)


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
