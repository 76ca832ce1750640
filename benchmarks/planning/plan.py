"""Measured runs against their plans: process CPU-seconds on one thread, peak memory and trained tokens.

    python -m benchmarks.planning.plan [--only fp32] [--folder runs/plan]

Each run is a process of its own, started as `paretune run` would, after `paretune plan` has said what it will cost. CPU-seconds
and not the clock, as the machine may be shared; what this machine reaches is measured first
(`paretune.planning.calibrate`). A run takes
3 to 15 minutes, more where other work is about. `docs/planning.md` has the figures.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path

from paretune.cli.allocator import keep_freed_memory, limit_kernels
from paretune.core.files import read_json, write_json

ROOT = Path(__file__).parents[2]
COMMON = ["data.limit=60", "train.stop_below=null", "evaluate.resamples=200"]
RUNS = {
    # Soup, MODPO and Panacea in float32.
    "fp32": [
        "configs/quickstart.yaml",
        *COMMON,
        "dtype=float32",
        "train.steps=6",
        "methods.panacea.train.steps=6",
        "evaluate.prompts=12",
        "evaluate.preferences=3",
    ],
    # Soup, MOD, DPO-LW and Rewards-in-Context in bfloat16, in larger batches.
    "bf16": [
        "configs/compare.yaml",
        *COMMON,
        "dtype=bfloat16",
        "train.batch_pairs=8",
        "train.steps=16",
        "methods={dpo-soup: {beta: 0.5}, mod: {beta: 0.5}, dpo-lw: {beta: 0.5, train: {steps: 8}}, "
        "ric: {iterations: 1, prompts: 32, online_steps: 6}}",
        "evaluate.prompts=24",
        "evaluate.preferences=3",
    ],
    # ParetoHqD on all linear layers with gradient checkpointing, and shorter answers.
    "checkpointing": [
        "configs/compare.yaml",
        *COMMON,
        "dtype=float32",
        "train.steps=4",
        "train.gradient_checkpointing=true",
        "train.targets=[all-linear]",
        "sampling.max_new_tokens=48",
        "methods={paretohqd: {k: 8, steps: 4, stage2_steps: 2, prompts: 8}}",
        "evaluate.prompts=8",
    ],
}


def child(name: str, folder: Path) -> None:
    """Run one of the runs in this process and write what it took."""
    from paretune.runs.parse import load_config
    from paretune.runs.run import run

    keep_freed_memory()
    config, *overrides = RUNS[name]
    report = run(load_config(ROOT / config, [*overrides, f"folder={folder}"]))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    stages = read_json(report.parent / "front.json")["stages"]
    histories = [report.parent / each / "history.json" for each in {stage["name"] for stage in stages}]
    write_json(
        folder / "measured.json",
        {
            "seconds": usage.ru_utime + usage.ru_stime,
            "peak": usage.ru_maxrss * 1024,
            "trained": sum(
                record["tokens"] for file in histories if file.is_file() for record in read_json(file)
            ),
        },
    )


def planned(name: str) -> dict[str, float]:
    """Return what the plan says of a run."""
    from paretune.runs.estimate import estimate
    from paretune.runs.parse import load_config
    from paretune.runs.plan import plan

    config, *overrides = RUNS[name]
    settings = load_config(ROOT / config, overrides)
    found = plan(settings)
    costs = estimate(found, settings, settings.model)
    trained = sum(stage.trained for stage in found.stages)
    return {"seconds": costs.cost.seconds, "peak": costs.peak, "trained": trained}


def main() -> None:
    """Plan and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=RUNS, action="append", help="some of the runs")
    parser.add_argument("--folder", type=Path, default=Path("runs/plan"), help="of the run folders")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.only or list(RUNS)
    if arguments.child:
        child(names[0], arguments.folder / names[0])
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    keep_freed_memory()  # as the command line does, also where this machine is measured
    limit_kernels()  # for the runs too
    rows = []
    for name in names:
        folder = arguments.folder / name
        if not (folder / "measured.json").is_file():
            again = [
                sys.executable,
                "-m",
                "benchmarks.planning.plan",
                "--child",
                "--only",
                name,
                "--folder",
                str(arguments.folder),
            ]
            subprocess.run(again, check=True)
        rows.append((name, planned(name), read_json(folder / "measured.json")))
    write_json(arguments.folder / "plan.json", {name: {"planned": p, "measured": m} for name, p, m in rows})
    print("| run | CPU-seconds planned, measured | peak memory, GB | trained tokens |\n|---|---|---|---|")
    for name, said, found in rows:
        cells = [
            (said[key], found[key], scale) for key, scale in (("seconds", 1), ("peak", 1e9), ("trained", 1))
        ]
        text = [f"{a / scale:.3g}, {b / scale:.3g} ({a / b - 1:+.0%})" for a, b, scale in cells]
        print(f"| {name} | {' | '.join(text)} |")


if __name__ == "__main__":
    main()
