"""What vLLM 0.33 does with a LoRA resolver, as far as a plugin meets it: two modules, a registry, and how a model is found."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import count
from types import ModuleType
from typing import Any

import pytest


@dataclass
class LoRARequest:
    """A LoRA to load; the fields and checks of vLLM's own."""

    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    base_model_name: str | None = None
    load_inplace: bool = False
    is_3d_lora_weight: bool = False

    def __post_init__(self) -> None:
        if self.lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {self.lora_int_id}")
        assert self.lora_path, "lora_path cannot be empty"


class LoRAResolver(ABC):
    """What a plugin extends."""

    @abstractmethod
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """Return the LoRA of a name, or None."""


@dataclass
class Registry:
    """vLLM's ``LoRAResolverRegistry``."""

    resolvers: dict[str, LoRAResolver] = field(default_factory=dict)

    def register_resolver(self, resolver_name: str, resolver: LoRAResolver) -> None:
        """Keep a resolver under a name."""
        self.resolvers[resolver_name] = resolver


@dataclass
class Models:
    """How the server finds a model: what is loaded, then the resolvers in turn; each LoRA gets a number of its own."""

    model: str
    registry: Registry
    loaded: dict[str, LoRARequest] = field(default_factory=dict)
    numbers: Any = field(default_factory=lambda: count(1))

    async def resolve_lora(self, lora_name: str) -> LoRARequest | int:
        """Return the LoRA, or the status of the error."""
        if lora_name in self.loaded:
            return self.loaded[lora_name]
        number = next(self.numbers)
        for resolver in self.registry.resolvers.values():
            found = await resolver.resolve_lora(self.model, lora_name)
            if found is not None:
                found.lora_int_id = number
                self.loaded[lora_name] = found
                return found
        return 404


def install(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Make ``vllm.lora.request`` and ``vllm.lora.resolver`` importable, and return the registry."""
    registry = Registry()
    contents: dict[str, dict[str, Any]] = {
        "vllm": {},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
        "vllm.lora.resolver": {"LoRAResolver": LoRAResolver, "LoRAResolverRegistry": registry},
    }
    for name, values in contents.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    return registry
