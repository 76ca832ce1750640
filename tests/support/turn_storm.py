"""A process that talks as fast as it can: ``turn_storm.py URL CONVERSATION``.

It prints ``ID TEXT`` of a turn only after the store acknowledged it, so what stands in its output must be in the store.
"""

from __future__ import annotations

import os
import sys

from paretune.serving.store.entries import Turn
from paretune.serving.store.store import Store


def main(url: str, conversation: int) -> None:
    store, parent = Store.open(url), None
    for number in range(10**9):
        role = "assistant" if number % 2 else "user"
        parent = store.conversations.add_turn(conversation, Turn(role, f"turn {number}", parent))
        os.write(1, f"{parent} turn {number}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
