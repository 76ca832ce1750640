"""The preference that a head chooses for a conversation, within the bounds of a server."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.choosing.bounds import Bounds
from paretune.core.files import fingerprint
from paretune.core.preference import Preference, nearest
from paretune.data.rows import Prompt
from paretune.scoring.auto_head import LONGEST, AutoHead
from paretune.serving.backend import Served

if TYPE_CHECKING:
    from paretune.scoring.frozen import Frozen

MOST_KEPT = 4096
"""Messages whose preference is kept; a conversation of which an answer is asked for again is not read again."""


@dataclass(frozen=True)
class Chosen:
    """What a head chose for one conversation.

    Attributes:
        preference: Its preference, within the bounds.
        constant: The one preference that the same votes or labels give for all prompts, within the bounds.
        bounded: Whether the bounds, or anchors within them, moved the preference.
    """

    preference: Preference
    constant: Preference
    bounded: bool


class Chooser:
    """A head with its encoder, which is loaded once; what was chosen for the latest messages is kept.

    Attributes:
        held: The head.
    """

    def __init__(self, held: AutoHead, device: str | None = None) -> None:
        self.held, self._device = held, device
        self._frozen: Frozen | None = None
        self._kept: OrderedDict[str, Preference] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, folder: str | Path, device: str | None = None) -> Chooser:
        """Read a head; its encoder is checked now and loaded by :meth:`load`.

        Raises:
            ModelError: There is no head, it is damaged, or its encoder is not there or has other weights.
        """
        held = AutoHead.load(folder)
        held.checked_encoder()
        return cls(held, device)

    def load(self) -> None:
        """Load the encoder; it blocks for a second or more."""
        with self._lock:
            self._frozen = self.held.load_encoder(self._device)

    def weights(self, text: str) -> Preference:
        """Return the preference for a user's message; it blocks while an encoder reads it."""
        key = fingerprint(text[:LONGEST])
        with self._lock:
            if key not in self._kept:
                if self._frozen is None:
                    self._frozen = self.held.load_encoder(self._device)
                (self._kept[key],) = self.held.preferences(self._frozen, [text])
            self._kept.move_to_end(key)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]

    def choose(self, text: str, served: Served, bounds: Bounds) -> Chosen:
        """Return the preference for a user's message that a server with ``bounds`` can serve."""
        wanted = self.weights(text).over(served.objectives)
        inside = within(wanted, served, bounds)
        constant = within(self.held.constant.over(served.objectives), served, bounds)
        return Chosen(inside, constant, inside != wanted)


def within(preference: Preference, served: Served, bounds: Bounds) -> Preference:
    """Return the nearest preference within the bounds whose answer is within them too: an anchor may lie elsewhere."""
    inside = bounds.nearest(preference)
    if bounds.admits(served.used(inside)):
        return inside
    anchors = (Preference.of(anchor, served.objectives) for anchor in served.facts.get("anchors", ()))
    allowed = [anchor for anchor in anchors if bounds.admits(anchor)]
    return nearest(inside, allowed) if allowed else served.default


def last_turn(prompt: Prompt | str | None) -> str | None:
    """Return the last message of the user in a conversation; None where there is none, or no conversation."""
    if prompt is None or isinstance(prompt, str):
        return None
    return next((message.content for message in reversed(prompt) if message.role == "user"), None)
