"""Numbers that people and files write as text."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def number_in(text: str) -> float:
    """Return the number that a text is, as JSON and CSV write one; white space around it does not count.

    Python's own ``float`` reads more, such as ``1_000``, digits of other scripts and ``nan``, which nobody means as a number.

    Raises:
        ValueError: The text is no number.

    >>> number_in(" -1.5e3 ")
    -1500.0
    """
    if _NUMBER.fullmatch(text.strip()) is None:
        raise ValueError(f"{text!r:.60} is no number")
    return float(text)
