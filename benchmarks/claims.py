"""Judge the papers' claims from finished sweeps: claims.json, claims.png and the table of claims.md in docs/results/.

    python -m benchmarks.claims [CONFIG=RUN ...] [--check]

``CONFIG=RUN`` says which folder holds the finished sweep of a committed config, such as ``proof=runs/proof``; claims of configs
that are not named stay as they are. ``--check`` writes nothing and fails where the page is not what claims.json gives.

A claim names what is compared; its verdict follows from the figures alone. Scores of answers are compared prompt by
prompt, and intervals cover prompts and training seeds (docs/statistics.md). The p-values of the claims of one config are judged
together (Holm).

A claim is set aside, with no verdict on the page, where more than :data:`SENSE` of the answers of a method that it compares
collapsed at some preference, in any seed; its p-value counts among those of its config all the same.

- *above*: the first is better than the second. It holds where that is shown; it does not hold where the opposite is shown, or where
  the whole 95 % interval lies below :data:`MARGIN`; else it could not be seen.
- *no worse*: the first is not worse than the second by :data:`MARGIN` or more. It holds where that is shown; it does not hold where
  the whole interval lies below zero; else it could not be seen.
- *all above*: each of several is better than the second, judged by the least certain of them.
- *some above*: at least one of several is better than the second, judged by the most certain of them, its p-value and its interval
  widened for the number of those that were tried (Bonferroni).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.results import replaced, rounded, table
from paretune.core.errors import ParetuneError
from paretune.core.files import atomic_path, read_json, write_json, write_text
from paretune.data.score_files import read_scores
from paretune.evaluation.judge import by_method
from paretune.fronts.front import Front, mixture
from paretune.fronts.inference import Comparison, compare
from paretune.fronts.intervals import Fronts
from paretune.fronts.record import FILE, FrontRecord, MeasuredPolicy
from paretune.fronts.score_table import BASE, CORNERS, SEED_MARK
from paretune.reports.wording import number, percent

FOLDER = Path("docs/results")
MARGIN = 0.1
"""The smallest difference that would change what somebody does, in deviations of a score; set before a measurement."""
LEVEL = 0.95
SENSE = 0.03
"""The largest share of collapsed answers, at each preference of each seed, with which a claim is judged."""
MIXTURE = "mixture of its corners"
"""What serving a method's own answers at the corners by chance gives, each seed its own."""

COLOURS = {"holds": "#1b7f4b", "does not hold": "#b3382c", "could not be seen": "#888888"}
"""Verdict -> colour."""

Kind = Literal["above", "no worse", "all above", "some above"]


@dataclass(frozen=True)
class Claim:
    """What a paper says, as a comparison of two methods of a config.

    Attributes:
        name: Key of the claim.
        says: The claim in a sentence.
        source: Who makes it.
        config: Name of the committed config.
        kind: What is to be shown, see the module.
        first: Methods; one, but for the claims about several.
        second: Method, ``base`` or :data:`MIXTURE`.
        cost: Largest share of the second's processor time of training, sampling in it included, that the first may take; None where
            cost is no part of it.
        collapse: Whether the first must also collapse no more often than the second.
        paired: Whether the two share what each seed trained first, as a method and the mixture of its own corners do.
    """

    name: str
    says: str
    source: str
    config: str
    kind: Kind
    first: tuple[str, ...]
    second: str
    cost: float | None = None
    collapse: bool = False
    paired: bool = False


PANACEAS = ("panacea", "linear", "tchebycheff", "paper")
PAIRS = ("dpo-soup", "mod", "dpo-lw", "modpo", *PANACEAS, "sipo")
TRAINED = (*PAIRS, "paretohqd", "ric", "morlhf")
HH = ("dpo-soup", "modpo", "panacea", "paretohqd", "morlhf")
ANCHORED = ("dpo-lw", "modpo", "soup")
CLAIMS = (
    Claim(
        "steering", "Every trained method is above the base model", "all", "proof", "all above", TRAINED, BASE
    ),
    Claim(
        "prompting",
        "Every trained method is above asking in words",
        "none; it must hold",
        "proof",
        "all above",
        TRAINED,
        "prompting",
    ),
    Claim(
        "mixture",
        "Some method is above the mixture of its own corners",
        "Rewarded Soups, Panacea, MODPO",
        "proof",
        "some above",
        TRAINED,
        MIXTURE,
        paired=True,
    ),
    Claim(
        "modpo-dpo-lw",
        "MODPO is above DPO loss weighting",
        "arXiv 2310.03708",
        "proof",
        "above",
        ("modpo",),
        "dpo-lw",
    ),
    Claim(
        "modpo-morlhf",
        "MODPO is no worse than MORLHF at a third of its cost",
        "arXiv 2310.03708",
        "proof",
        "no worse",
        ("modpo",),
        "morlhf",
        cost=1 / 3,
    ),
    Claim(
        "panacea-soup",
        "One Panacea is no worse than a soup of M adapters",
        "arXiv 2402.02030",
        "proof",
        "no worse",
        ("panacea",),
        "dpo-soup",
    ),
    Claim(
        "tchebycheff",
        "Panacea with the Tchebycheff form is above Panacea with the sum",
        "arXiv 2402.02030",
        "proof",
        "above",
        ("tchebycheff",),
        "linear",
    ),
    Claim(
        "paretohqd-ric",
        "ParetoHqD is above Rewards-in-Context, and collapses no more often",
        "arXiv 2504.16628",
        "proof",
        "above",
        ("paretohqd",),
        "ric",
        collapse=True,
    ),
    Claim(
        "sipo-start",
        "SIPO is above where it starts, on data whose objectives conflict",
        "arXiv 2502.14354",
        "proof",
        "above",
        ("sipo",),
        "start",
        paired=True,
    ),
    Claim(
        "mod-soup",
        "MOD is above the soup of the same adapters",
        "arXiv 2406.18853",
        "proof",
        "above",
        ("mod",),
        "dpo-soup",
        paired=True,
    ),
    Claim(
        "anchor-modpo-dpo-lw",
        "MODPO is above DPO loss weighting, both with the anchor term in place of imitation",
        "arXiv 2310.03708",
        "proof-anchor",
        "above",
        ("modpo",),
        "dpo-lw",
    ),
    Claim(
        "anchor-mixture",
        "With the anchor term, some method is above the mixture of its own corners",
        "Rewarded Soups, MODPO",
        "proof-anchor",
        "some above",
        ANCHORED,
        MIXTURE,
        paired=True,
    ),
    Claim(
        "soft-modpo-dpo-lw",
        "MODPO is above DPO loss weighting, both with labels that are probabilities",
        "arXiv 2310.03708",
        "proof-soft",
        "above",
        ("modpo",),
        "dpo-lw",
    ),
    Claim(
        "soft-mixture",
        "With labels that are probabilities, some method is above the mixture of its own corners",
        "Rewarded Soups, MODPO",
        "proof-soft",
        "some above",
        ANCHORED,
        MIXTURE,
        paired=True,
    ),
    Claim(
        "own-sipo-start",
        "SIPO is above where it starts, on answers of the model itself and with more tries",
        "arXiv 2502.14354",
        "proof-sipo",
        "above",
        ("sipo",),
        "start",
        paired=True,
    ),
    Claim(
        "hh-steering",
        "On people's preferences, every trained method is above the base model, by an independent judge",
        "all",
        "hh",
        "all above",
        HH,
        BASE,
    ),
    Claim(
        "hh-prompting",
        "On people's preferences, every trained method is above asking in words, by an independent judge",
        "none; it must hold",
        "hh",
        "all above",
        HH,
        "prompting",
    ),
    Claim(
        "hh-mixture",
        "On people's preferences, some method is above the mixture of its own corners, by an independent judge",
        "Rewarded Soups, Panacea, MODPO",
        "hh",
        "some above",
        HH,
        MIXTURE,
        paired=True,
    ),
    Claim(
        "hh-panacea-soup",
        "On people's preferences, one Panacea is no worse than a soup of M adapters, by an independent judge",
        "arXiv 2402.02030",
        "hh",
        "no worse",
        ("panacea",),
        "dpo-soup",
    ),
    Claim(
        "hh-long-base",
        "On people's preferences, Panacea with learned gates and 230 steps is above the base model, by an independent judge",
        "arXiv 2402.02030",
        "hh",
        "above",
        ("panacea-long",),
        BASE,
    ),
    Claim(
        "hh-long-soup",
        "On people's preferences, that Panacea is no worse than a soup of as many tokens, by an independent judge",
        "arXiv 2402.02030",
        "hh",
        "no worse",
        ("panacea-long",),
        "soup-long",
    ),
    Claim(
        "hh-blocks-base",
        "On people's preferences, Panacea in blocks, by DPO's loss, is above the base model",
        "arXiv 2402.02030",
        "hh",
        "above",
        ("blocks",),
        BASE,
    ),
    Claim(
        "hh-blocks-prompting",
        "On people's preferences, that Panacea is above asking in words, by an independent judge",
        "none; it must hold",
        "hh",
        "above",
        ("blocks",),
        "prompting",
    ),
    Claim(
        "hh-blocks-soup",
        "On people's preferences, that Panacea is no worse than a soup of M adapters, by an independent judge",
        "arXiv 2402.02030",
        "hh",
        "no worse",
        ("blocks",),
        "dpo-soup",
    ),
    Claim(
        "hh-imitating-soup",
        "On people's preferences, Panacea in blocks that imitates as the soup does is no worse than a soup of M adapters",
        "arXiv 2402.02030",
        "hh",
        "no worse",
        ("blocks-nll",),
        "dpo-soup",
    ),
    Claim(
        "mod-soup-3",
        "MOD is above the soup at three times the rate",
        "arXiv 2406.18853",
        "proof-far",
        "above",
        ("mod-3",),
        "soup-3",
        paired=True,
    ),
    Claim(
        "mod-soup-10",
        "MOD is above the soup at ten times the rate",
        "arXiv 2406.18853",
        "proof-far",
        "above",
        ("mod-10",),
        "soup-10",
        paired=True,
    ),
)


@dataclass(frozen=True)
class Measured:
    """A finished sweep.

    Attributes:
        methods: Method -> the fronts of its training seeds.
        record: The record.
        cpu: Policy -> seconds of processor time of the stages that trained its adapters.
    """

    methods: Mapping[str, Fronts]
    record: FrontRecord
    cpu: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Measured:
        """Read the folder of a finished sweep.

        Raises:
            ParetuneError: It is none.
        """
        record = FrontRecord.read(folder / FILE)
        table = read_scores(folder).policies()
        fronts = {
            name: scores.over(record.objectives).front for name, scores in table.items() if name != CORNERS
        }
        return cls(
            by_method(fronts), record, {each.name: _trained(folder, each.name) for each in record.policies}
        )

    def against(self, first: str, second: str, paired: bool = False) -> Comparison:
        """Return the comparison of two methods, or of a method with the mixture of its own corners."""
        own = self.methods[first]
        other = [mixed(front) for front in _listed(own)] if second == MIXTURE else self.methods[second]
        return compare(own, other, paired=paired)

    def policies(self, method: str) -> list[MeasuredPolicy]:
        """Return the entries of a method's seeds; a method without seeds has one."""
        found = [each for each in self.record.policies if each.name.rpartition(SEED_MARK)[0] == method]
        return found or [each for each in self.record.policies if each.name == method]

    def tokens(self, method: str) -> float | None:
        """Return the mean number of tokens that the seeds trained on; None where nothing was trained."""
        return _mean(each.cost.tokens for each in self.policies(method) if each.cost)

    def sampled(self, method: str) -> float | None:
        """Return the mean number of tokens that were sampled to train the seeds on; None where there were none."""
        return _mean(each.cost.sampled for each in self.policies(method) if each.cost)

    def seconds(self, method: str) -> float | None:
        """Return the mean processor time of training, which other work on the machine moves little; None likewise."""
        return _mean(self.cpu.get(each.name) for each in self.policies(method))

    def collapse(self, method: str) -> float:
        """Return the largest share of collapsed answers at a point, that of the worst seed."""
        return max(float(point.collapse_rate) for each in self.policies(method) for point in each.points)


def _trained(folder: Path, policy: str) -> float:
    """Return the processor time of the stages that trained a policy's adapters; 0 where nothing was trained."""
    infos = [read_json(file).get("info", {}) for file in (folder / "policies" / policy).rglob("adapter.json")]
    stages = {stage for info in infos for stage in info.get("stages") or filter(None, [info.get("stage")])}
    return sum(float(read_json(folder / stage / "stage.json")["spent"]["cpu_seconds"]) for stage in stages)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value]
    return sum(known) / len(known) if known else None


def _listed(fronts: Fronts) -> list[Front]:
    return [fronts] if isinstance(fronts, Front) else list(fronts)


def mixed(front: Front) -> Front:
    """Return what serving a policy's own answers at the corners by chance gives, at its preferences.

    Raises:
        ParetuneError: It was not measured at its corners.
    """
    corners = np.flatnonzero(np.isclose(front.preferences.max(axis=1), 1))
    ends = Front(
        front.name, front.objectives, front.preferences[corners], front.scores[corners], front.prompts
    )
    return mixture(ends, front.preferences)


@dataclass(frozen=True)
class Found:
    """What was found for a claim.

    Attributes:
        comparison: The comparison that decides it, with its interval at the claim's level.
        p_value: The p-value of the claim by itself.
        facts: What else the claim asks for, in words, and whether it is so.
    """

    comparison: Comparison
    p_value: float
    facts: tuple[tuple[str, bool], ...] = ()


def found(claim: Claim, measured: Measured) -> Found:
    """Return what a finished sweep says of a claim.

    Raises:
        ParetuneError: A method of the claim was not measured, or cannot be compared.
    """
    for name in (*claim.first, claim.second):
        if name not in (*measured.methods, MIXTURE):
            raise ParetuneError(
                f"{claim.config}: the run has no method {name!r}, which the claim {claim.name!r} compares"
            )
    each = [measured.against(first, claim.second, claim.paired) for first in claim.first]
    if claim.kind == "all above":
        decides = min(each, key=lambda c: c.difference / c.error)
        p = max(c.p_value if c.difference > 0 else 1.0 for c in each)
    elif claim.kind == "some above":
        best = max(each, key=lambda c: c.difference / c.error)
        decides = replace(best, level=1 - (1 - LEVEL) / len(each))
        p = min(1.0, len(each) * best.p_value) if best.difference > 0 else 1.0
    elif claim.kind == "no worse":
        (decides,) = each
        shifted = replace(decides, difference=decides.difference + MARGIN)
        p = shifted.p_value if shifted.difference > 0 else 1.0
    else:
        (decides,) = each
        p = decides.p_value
    return Found(decides, p, tuple(_facts(claim, measured)))


def _facts(claim: Claim, measured: Measured) -> Iterator[tuple[str, bool]]:
    first, second = claim.first[0], claim.second
    if claim.cost is not None:
        own, other = measured.seconds(first), measured.seconds(second)
        if own is None or other is None:
            raise ParetuneError(f"{claim.config}: the run does not say how long {first} and {second} trained")
        yield f"its training took {percent(own / other)} of the processor time", own <= claim.cost * other
    if claim.collapse:
        own, other = measured.collapse(first), measured.collapse(second)
        yield f"{percent(own)} of answers at most collapsed, against {percent(other)}", own <= other


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given."""
    m, largest, out = len(p_values), 0.0, [0.0] * len(p_values)
    for rank, i in enumerate(sorted(range(m), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (m - rank) * p_values[i]))
        out[i] = largest
    return out


def row(claim: Claim, result: Found, measured: Measured) -> dict[str, Any]:
    """Return a claim's entry of claims.json, without what depends on the other claims."""
    c = result.comparison
    return {
        "claim": claim.name,
        "says": claim.says,
        "source": claim.source,
        "kind": claim.kind,
        "compared": f"{c.first} less {c.second}",
        "effect": c.difference,
        "low": c.low,
        "high": c.high,
        "level": c.level,
        "detectable": c.detectable,
        "p_value": result.p_value,
        "facts": [{"what": what, "so": so} for what, so in result.facts],
        "seeds": max(c.seeds),
        "prompts": c.prompts,
        "tokens": {
            name: measured.tokens(name) for name in (*claim.first, claim.second) if name in measured.methods
        },
        "collapsed": {
            name: measured.collapse(name) for name in (*claim.first, claim.second) if measured.policies(name)
        },
        "config": f"configs/{claim.config}.yaml",
        "command": f"paretune sweep configs/{claim.config}.yaml; python -m benchmarks.claims {claim.config}=runs/{claim.config}",
    }


def split(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return judged rows: those of methods whose every seed writes sense at every preference, and those that are set aside."""
    kept: list[dict[str, Any]] = []
    aside: list[dict[str, Any]] = []
    for each in judged(rows):
        (aside if max(each["collapsed"].values()) > SENSE else kept).append(each)
    return kept, aside


def judged(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with adjusted p-values and verdicts, in the order of :data:`CLAIMS`."""
    known = {row["claim"]: row for row in rows}
    out: list[dict[str, Any]] = []
    for config in dict.fromkeys(claim.config for claim in CLAIMS):
        family = [known[each.name] for each in CLAIMS if each.config == config and each.name in known]
        p_values = adjusted([row["p_value"] for row in family])
        out += [
            {**row, "adjusted": p, "verdict": verdict(row, p)}
            for row, p in zip(family, p_values, strict=True)
        ]
    return out


def verdict(row: Mapping[str, Any], p: float) -> str:
    """Return ``holds``, ``does not hold`` or ``could not be seen`` by a row and its adjusted p-value, see the module."""
    if p < 1 - LEVEL and (row["kind"] == "no worse" or row["effect"] > 0):
        return "holds" if all(fact["so"] for fact in row["facts"]) else "does not hold"
    wrong = row["high"] < (0 if row["kind"] == "no worse" else MARGIN)
    return "does not hold" if wrong else "could not be seen"


def page(rows: Sequence[Mapping[str, Any]], aside: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of claims, and a line for each that is set aside."""
    head = [
        "claim",
        "verdict",
        "decided by",
        "difference, deviations",
        "p, adjusted",
        "could have been seen",
        "seeds, prompts",
        "training tokens",
        "collapsed, at most",
    ]
    lines = []
    for each in rows:
        facts = "".join(f"; {fact['what']}" for fact in each["facts"])
        lines.append(
            [
                f"{each['says']} ({each['source']})",
                f"**{each['verdict']}**",
                each["compared"] + facts,
                f"{number(each['effect'], 2)} [{number(each['low'], 2)}, {number(each['high'], 2)}]",
                "< 0.001" if each["adjusted"] < 0.001 else number(each["adjusted"], 3),
                number(each["detectable"], 2),
                f"{each['seeds']}, {each['prompts']}",
                _spent(each["tokens"]),
                percent(max(each["collapsed"].values())),
            ]
        )
    lost = [
        f"- *{each['says']}* ({each['source']}, `{each['config']}`): up to {percent(max(each['collapsed'].values()))}; "
        f"{each['compared']} measured {number(each['effect'], 2)} [{number(each['low'], 2)}, {number(each['high'], 2)}]."
        for each in aside
    ]
    if lost:
        title = f"Set aside, without a verdict, as more than {percent(SENSE)} of answers collapsed at some preference:"
        lost = ["", title, "", *lost]
    return "\n".join([*table(head, lines), *lost])


def draw(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw each claim's difference with its interval; the colour tells the verdict."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.6 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="#444444", linewidth=0.8)
    for place, each in enumerate(reversed(rows)):
        if each["kind"] == "no worse":
            axes.plot(
                [-MARGIN, -MARGIN], [place - 0.3, place + 0.3], color="#444444", linewidth=0.8, linestyle=":"
            )
        spread = [[each["effect"] - each["low"]], [each["high"] - each["effect"]]]
        colour = COLOURS[each["verdict"]]
        axes.errorbar(
            each["effect"], place, xerr=spread, fmt="o", color=colour, capsize=3, markersize=5, linewidth=1.4
        )
    axes.set_yticks(range(len(rows)), [each["says"] for each in reversed(rows)], fontsize=8)
    axes.set_xlabel(
        "difference of mean utility, deviations (dotted: the margin of no worse)", fontsize=9, loc="right"
    )
    for said, colour in COLOURS.items():
        axes.plot([], [], "o", color=colour, label=said)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right", "left"]].set_visible(False)
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _spent(tokens: Mapping[str, float | None]) -> str:
    known = [value / 1000 for value in tokens.values() if value]
    return f"{min(known):.0f} to {max(known):.0f} k" if known else "-"


def main(given: Sequence[str] | None = None) -> None:
    """Judge the claims, or check the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", metavar="CONFIG=RUN")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args(given)
    file, set_aside, document = (
        FOLDER / name for name in ("claims.json", "claims-set-aside.json", "claims.md")
    )
    if arguments.check and arguments.runs:
        parser.error("give runs to judge, or --check alone")
    rows = {row["claim"]: row for known in (file, set_aside) if known.exists() for row in read_json(known)}
    for word in arguments.runs:
        config, _, folder = word.partition("=")
        if not folder or config not in {claim.config for claim in CLAIMS}:
            parser.error(f"{word}: expected CONFIG=RUN with a config of these claims")
        try:
            measured = Measured.read(Path(folder))
            # Rounded as they are written, so that the page is what the files give.
            new = [
                dict(rounded(row(claim, found(claim, measured), measured)))
                for claim in CLAIMS
                if claim.config == config
            ]
        except ParetuneError as error:
            sys.exit(f"{word}: {error}")
        rows |= {each["claim"]: each for each in new}
    entries, aside = ([dict(rounded(each)) for each in part] for part in split(list(rows.values())))
    old = document.read_text(encoding="utf-8")
    text = replaced(old, page(entries, aside))
    if arguments.check:
        if text != old:
            sys.exit(f"{document}: not what {file} gives; run python -m benchmarks.claims")
        return
    write_json(file, entries)
    write_json(set_aside, aside)
    draw(entries, FOLDER / "claims.png")
    write_text(document, text)


if __name__ == "__main__":
    main()
