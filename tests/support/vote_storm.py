"""A process that votes as fast as it can: ``vote_storm.py URL PROFILE THREADS [VOTES]``.

It prints ``ID TEXT`` of a vote only after the store acknowledged it, so what stands in its output must be in the store.
"""

from __future__ import annotations

import os
import sys
import threading

from paretune.core.preference import Preference
from paretune.data.rows import Message
from paretune.serving.store.entries import Vote, VotedAnswer
from paretune.serving.store.store import Store


def make_vote(text: str) -> Vote:
    preference = Preference.of({"concise": 0.25, "warm": 0.75})
    return Vote(
        "panacea",
        (Message("user", "Hi"),),
        VotedAnswer(text, preference),
        VotedAnswer("b" * 200, preference),
        "first",
    )


def main(url: str, profile: str, threads: int, votes: int) -> None:
    store = Store.open(url)
    failed = []

    def storm(thread: int) -> None:
        try:
            for number in range(votes):
                text = f"{profile}-{thread}-{number}"
                identity = store.add_vote(profile, make_vote(text))
                os.write(1, f"{identity} {text}\n".encode())
        except BaseException as error:  # noqa: BLE001 - the parent is told
            failed.append(error)
            os.write(2, f"{type(error).__name__}: {error}\n".encode())

    running = [threading.Thread(target=storm, args=(thread,)) for thread in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 10**9)
