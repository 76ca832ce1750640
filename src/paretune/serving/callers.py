"""Who sends a request, and what is theirs: a key owns what it made, and only an admin's key sees what is others'."""

from __future__ import annotations

from dataclasses import dataclass

ANONYMOUS = "anonymous"


@dataclass(frozen=True)
class Caller:
    """The sender of a request.

    Attributes:
        name: Name of the API key; ``anonymous`` where the server needs none.
        admin: Whether everything may be read and changed. True where the server needs no key, as nobody can be told apart.
        has_peers: Whether the server knows other keys.
    """

    name: str = ANONYMOUS
    admin: bool = True
    has_peers: bool = False

    @property
    def owner(self) -> str | None:
        """The owner of what this caller makes; None, which is nobody, where the server needs no key."""
        return None if self.name == ANONYMOUS else self.name

    @property
    def limited_to(self) -> str | None:
        """The owner whose records this caller may list; None for all."""
        return None if self.admin else self.name

    def may_use(self, owner: str | None) -> bool:
        """Return whether something of ``owner`` may be read and changed; what belongs to nobody is everybody's."""
        return self.admin or owner is None or owner == self.name
