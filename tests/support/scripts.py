"""Scripts of the repository that are no package, as modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    """Return a script of the repository as a module, such as ``docs/site.py``."""
    spec = importlib.util.spec_from_file_location(name.replace("/", "_").removesuffix(".py"), ROOT / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
