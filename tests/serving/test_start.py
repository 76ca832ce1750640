"""What a server loads before it listens."""

from __future__ import annotations

import subprocess
import sys


def test_the_command_loads_neither_the_model_nor_the_optimisers_of_fits() -> None:
    """A server without a head to fit starts earlier without them; the model is loaded beside, once it listens."""
    code = (
        "import sys, paretune.serving.command;"
        "print(*(m for m in ('torch', 'transformers', 'scipy.optimize') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
