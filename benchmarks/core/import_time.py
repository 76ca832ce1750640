"""What ``import paretune`` costs: CPU-seconds of a process that imports the package, above one that does nothing.

    python -m benchmarks.core.import_time [--rounds 9] [--most 0.05]

The names of the package load on first use, so the import itself is to stay under 0.05 s; more is an error.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.side_by_side import in_turn


def seconds(code: str) -> float:
    """Return the CPU-seconds of a fresh interpreter that runs ``code``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--most", type=float, default=0.05, help="seconds that the import may take")
    arguments = parser.parse_args(given)
    ways = {"nothing": lambda: seconds("pass"), "import paretune": lambda: seconds("import paretune")}
    taken = in_turn(ways, arguments.rounds)
    cost = statistics.median(b - a for a, b in zip(*taken.values(), strict=True))
    print(f"import paretune: {cost:.3f} s above an interpreter that does nothing")
    if cost > arguments.most:
        sys.exit(f"import paretune takes {cost:.3f} s; at most {arguments.most} s are allowed")


if __name__ == "__main__":
    main()
