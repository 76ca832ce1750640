"""The parts: what the field publishes under a name and what here is a setting of methods; :data:`PARTS` is where one is added."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """What a user must know to find a part.

    Attributes:
        title: Its usual name.
        paper: Where it is defined.
        does: What it does.
        used: The methods that have it.
        setting: The setting that turns it on.
    """

    title: str
    paper: str
    does: str
    used: str
    setting: str


PARTS: dict[str, Part] = {
    "mdpo": Part(
        "The two text terms of mDPO",
        "arXiv 2406.11839",
        "keeps chosen likelier than under the reference, and likelier under the right preference than under a wrong one",
        "anchor: dpo-soup, mod, modpo, spo, hpo, mrpo, spa, panacea; contrast: panacea",
        "anchor: 1, contrast: 1",
    ),
    "morlaif": Part(
        "MORLAIF",
        "arXiv 2406.07295",
        "labels by a judge for each principle, a head that learns each, and the forms that join objectives",
        "all that read pairs or scores; the forms: panacea, morlhf, gdpo, paretune choose",
        "score: [{principles: FILE, model: NAME, sort: greedy, head: fit}], aggregation or scalarisation: min",
    ),
    "pairs": Part(
        "PairS",
        "arXiv 2403.16950",
        "ranks responses, or policies, by a judge that compares two: a merge sort, both orders, transitivity counted",
        "all that read pairs or scores; paretune score rank, paretune score policies",
        "score: [{judge: FILE, sort: beam}]",
    ),
}
