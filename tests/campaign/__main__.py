"""``python -m campaign``: try, print what held by kind, write JSON; exit 1 if anything did not hold.

The whole campaign takes about 40 minutes on two cores (``--jobs 2``).
"""

from __future__ import annotations

import argparse
import json
import queue
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from campaign.kinds import KINDS
from campaign.trial import Outcome, Trial, attempt, chance_of
from campaign.warm import Warm


def main() -> int:
    """Parse the options and run the campaign; return the exit status."""
    options = argparse.ArgumentParser(prog="campaign", description=__doc__)
    options.add_argument("--only", choices=list(KINDS), action="append", help="a kind; repeat for several")
    options.add_argument("--count", type=int, help="trials of each kind; by default all of the campaign")
    options.add_argument("--seed", type=int, default=0, help="the seed of all that is random")
    options.add_argument("--trial", help="only trials whose name contains this")
    options.add_argument("--jobs", type=int, default=1, help="trials at the same time")
    options.add_argument(
        "--json", type=Path, default=Path("build/campaign.json"), help="the file of outcomes"
    )
    options.add_argument("--folder", type=Path, help="where to work and to keep what did not hold")
    given = options.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="campaign-"))
    wanted = planned(given.only or list(KINDS), None if given.trial else given.count, given.seed)
    wanted = [trial for trial in wanted if not given.trial or given.trial in trial.name]
    if not wanted:
        options.error("no such trial")
    outcomes = run(wanted, given.seed, folder.resolve(), given.jobs, tell)
    print(table(outcomes))
    for outcome in outcomes:
        if not outcome.held:
            print(f"\n{outcome.kind} {outcome.name}: {outcome.remark}\n    {repeat(outcome, given.seed)}")
    given.json.parent.mkdir(parents=True, exist_ok=True)
    facts = {"seed": given.seed, "outcomes": [outcome.to_dict() for outcome in outcomes]}
    given.json.write_text(json.dumps(facts, indent=1) + "\n")
    held = all(outcome.held for outcome in outcomes)
    if given.folder is None and held:
        shutil.rmtree(folder)
    print(f"\nOutcomes: {given.json}" + ("" if held else f"; what did not hold lies in {folder}/trials"))
    return 0 if held else 1


def planned(kinds: Sequence[str], count: int | None, seed: int) -> list[Trial]:
    """Return the trials of the kinds."""
    return [trial for kind in kinds for trial in KINDS[kind](count, chance_of(seed, kind))]


def run(
    trials: Sequence[Trial], seed: int, folder: Path, jobs: int = 1, told: object = None
) -> list[Outcome]:
    """Try all, ``jobs`` at a time; return the outcomes in order."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(trials)):
        waiting.put(number)
    outcomes: dict[int, Outcome] = {}

    def work() -> None:
        warm = Warm(folder / "cache")
        try:
            while True:
                number = waiting.get_nowait()
                outcomes[number] = attempt(trials[number], seed, folder, warm)
                if callable(told):
                    told(outcomes[number], len(outcomes), len(trials))
        except queue.Empty:
            pass
        finally:
            warm.close()

    workers = [threading.Thread(target=work, daemon=True) for _ in range(max(1, min(jobs, len(trials))))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [outcomes[number] for number in sorted(outcomes)]


def tell(outcome: Outcome, number: int, of: int) -> None:
    """Print a trial's outcome as it comes."""
    mark = "held" if outcome.held else "DID NOT HOLD"
    print(f"[{number}/{of}] {outcome.kind} {outcome.name}: {mark} ({outcome.seconds:.1f} s)", flush=True)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return tried and held by kind."""
    lines = [f"\n{'kind':<14}{'tried':>7}{'held':>7}{'seconds':>10}"]
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        these = [outcome for outcome in outcomes if outcome.kind == kind]
        held, seconds = sum(o.held for o in these), sum(o.seconds for o in these)
        lines.append(f"{kind:<14}{len(these):>7}{held:>7}{seconds:>10.0f}")
    return "\n".join(lines)


def repeat(outcome: Outcome, seed: int) -> str:
    """Return the command that repeats one trial."""
    return f"make campaign ARGS='--only {outcome.kind} --seed {seed} --trial \"{outcome.name}\"'"


if __name__ == "__main__":
    began = time.perf_counter()
    status = main()
    print(f"{time.perf_counter() - began:.0f} s")
    sys.exit(status)
