"""``paretune advise``: which method, how many prompts and steps, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paretune.runs.advice import Advice

if TYPE_CHECKING:
    from rich.console import Group


def render(advice: Advice) -> Group:
    """Return the advice for the terminal."""
    from rich.console import Group
    from rich.text import Text

    basis = "a pilot run" if advice.basis == "pilot" else "rules of thumb and assumptions, which are named"
    fitting = [f"{choice.method}: {choice.why}" for choice in advice.methods if choice.fits]
    others = [f"{choice.method}: {choice.why}" for choice in advice.methods if not choice.fits]
    parts: list[Text] = []
    for title, lines in (
        ("The data hold", advice.data),
        ("Methods that fit, in the order to try them", fitting or ["none yet; see below what each lacks"]),
        ("Methods that lack something", others),
        (f"How many prompts (by {basis})", advice.prompts),
        (f"How many steps (by {basis})", advice.steps),
        ("What this cannot say", advice.unknown),
    ):
        if lines:
            parts.append(Text(title, style="bold"))
            parts += [Text(f"  - {line}") for line in lines]
    return Group(*parts)
