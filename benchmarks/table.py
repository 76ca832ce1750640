"""Write the table of docs/performance.md from the JSON files beside it.

    python -m benchmarks.table [--take benchmarks/results [--kind avx2]] [--check]

`--take` first copies the files of the benchmarks that the table has to docs/performance/, or with `--kind` to a folder there, for a
machine of another kind: its ratios become a column. `--check` writes nothing and fails where the table is not what the files give.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paretune.core.files import read_json, write_json, write_text

DOCUMENT, FOLDER = Path("docs/performance.md"), Path("docs/performance")
BEGIN, END = "<!-- written by benchmarks/table.py -->", "<!-- end of the table -->"


def results(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the name and content of the files of the table's benchmarks in ``folder``, in their order B1, B2, .."""
    found = [(file.stem, read_json(file)) for file in sorted(folder.glob("*.json"))]
    numbered = [
        (name, result) for name, result in found if re.fullmatch(r"B\d+", result.get("benchmark", ""))
    ]
    return sorted(numbered, key=lambda item: int(item[1]["benchmark"][1:]))


def table(
    found: Sequence[tuple[str, Mapping[str, Any]]],
    others: Sequence[Sequence[tuple[str, Mapping[str, Any]]]] = (),
) -> str:
    """Return the table, what was equal before anything counted, and where and with what it was measured.

    Args:
        found: Names and contents of the files.
        others: The same of machines of other kinds, whose ratios are a column each.
    """
    kinds = [_kind(other) for other in others]
    head = [
        "",
        "what",
        "paretune",
        "against",
        "ratio, median (lowest to highest)",
        *(f"on {kind}" for kind in kinds),
    ]
    lines = [f"| {' | '.join(head)} |".replace("|  |", "| |"), "|" + "---|" * len(head)]
    for _, result in found:
        for number, row in enumerate(result["figures"]):
            label = f"**{result['benchmark']}**" if number == 0 else ""
            more = "".join(f" {_ratio(_same(other, result['benchmark'], row))} |" for other in others)
            lines.append(f"| {label} | {row['what']} | {_cells(row)} |{more}")
    lines += ["", "What was equal before a figure counted, in all rounds:", ""]
    lines += [
        f"- {result['benchmark']}, `{_source(name)}`: {_equal(result['equal'])}" for name, result in found
    ]
    lines += ["", *_machines(found)]
    for other in others:
        lines += _machines(other)
    return "\n".join(lines)


def _kind(found: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    machine = found[0][1]["machine"]
    return ", ".join(filter(None, (machine["processor"], machine.get("instructions"))))


def _same(
    found: Sequence[tuple[str, Mapping[str, Any]]], benchmark: str, row: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Return the row of the same comparison in other results, None where it was not run."""
    rows = (each for _, result in found if result["benchmark"] == benchmark for each in result["figures"])
    which = ("what", "ours", "against")
    return next((each for each in rows if all(each[key] == row[key] for key in which)), None)


def _ratio(row: Mapping[str, Any] | None) -> str:
    if row is None or "ratio" not in row:
        return "-"
    ends = " to ".join(_short(row["ratio"][end]) for end in ("low", "high"))
    return f"{_short(row['ratio']['median'])}x ({ends})"


def _source(name: str) -> str:
    """Return the path of a benchmark from the repository's root."""
    here = Path(__file__).parent
    (path,) = here.rglob(f"{name}.py")
    return path.relative_to(here.parent).as_posix()


def _cells(row: Mapping[str, Any]) -> str:
    taken = row["taken"][row["ours"]]
    ours = _median(taken, row["unit"]) if taken else "not run"
    if row["ours"] != "paretune":
        ours = f"{row['ours']}: {ours}"
    note = f" ({row['note']})" if row["note"] else ""
    if "ratio" not in row:
        return f"{ours} | {row['against']} | {row['note']}"
    theirs = _median(row["taken"][row["against"]], row["unit"])
    ratio = row["ratio"]
    each = " to ".join(_short(ratio[end]) for end in ("low", "high"))
    what = {"speed": "", "memory": " the memory", "tokens": " fewer tokens"}[ratio["of"]]
    return f"{ours} | {row['against']}: {theirs}{note} | **{_short(ratio['median'])}x**{what} ({each})"


def _median(values: Sequence[float], unit: str) -> str:
    middle = statistics.median(values)
    if unit == "tokens":
        return f"{middle:,.0f} tokens".replace(",", " ")
    if unit.endswith("s") and middle < 0.01:
        return f"{middle * 1000:.3g} {unit.replace('s', 'ms')}"
    return f"{middle:.0f} {unit}" if middle >= 100 else f"{middle:.3g} {unit}"


def _short(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.2f}"


def _equal(checks: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for check in checks:
        if "share_of_tolerance" not in check:
            parts.append(str(check["what"]))
        elif not check["relative"] and not check["absolute"]:
            parts.append(f"{check['what']}, exactly")
        else:
            allowed = [f"{check[kind]:g} {kind}" for kind in ("relative", "absolute") if check[kind]]
            parts.append(
                f"{check['what']} within {' + '.join(allowed)} ({100 * check['share_of_tolerance']:.2g} % of it)"
            )
    return "; ".join(parts)


def _machines(found: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Return a sentence for each machine, with the benchmarks that were run there."""
    places: dict[str, list[str]] = {}
    for _, result in found:
        machine, settings = result["machine"], result["settings"]
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
        processor = ", ".join(filter(None, (machine["processor"], machine.get("instructions"))))
        place = f"{processor}, {machine['cores']} cores, one thread; {settings['model']}; {versions}."
        rounds, load = settings["rounds"], machine["load"]
        places.setdefault(place, []).append(f"{result['benchmark']} (rounds {rounds}, load {load:g})")
    return [f"Measured on {place} {', '.join(which)}." for place, which in places.items()]


def replaced(document: str, text: str) -> str:
    """Return the document with ``text`` between its two markers."""
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def main(given: Sequence[str] | None = None) -> None:
    """Write or check the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--take", type=Path, help="folder of new results")
    parser.add_argument(
        "--kind", default="", help="folder of the machine's kind, where it is another than the table's"
    )
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args(given)
    if arguments.take:
        for name, result in results(arguments.take):
            write_json(FOLDER / arguments.kind / f"{name}.json", result)
    old = DOCUMENT.read_text(encoding="utf-8")
    others = [found for folder in sorted(FOLDER.iterdir()) if folder.is_dir() and (found := results(folder))]
    new = replaced(old, table(results(FOLDER), others))
    if arguments.check and new != old:
        sys.exit(f"the table of {DOCUMENT} is not what {FOLDER} gives; run benchmarks/table.py")
    if not arguments.check:
        write_text(DOCUMENT, new)


if __name__ == "__main__":
    main()
