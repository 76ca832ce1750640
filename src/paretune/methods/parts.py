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
    "pal": Part(
        "PAL",
        "arXiv 2406.08469",
        "finds objectives in the votes of several people, and a person's weights over them",
        "any, as scorers; presets of a server",
        "score: {objective: NAME, prototype: FOLDER}, from paretune pal fit",
    ),
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
    "raco": Part(
        "RACO, and other conflict-averse gradients",
        "arXiv 2602.02495",
        "combines the gradients of the objectives instead of their losses",
        "dpo-lw, panacea, morlhf, gdpo",
        "gradients: raco",
    ),
    "gd2po": Part(
        "GD2PO",
        "arXiv 2606.16771",
        "leaves out responses on which standardised rewards disagree, and weighs prompts by how many are left",
        "gdpo",
        "aggregation: gd2po, estimator: grpo",
    ),
    "dvao": Part(
        "DVAO",
        "arXiv 2605.25604",
        "weighs standardised rewards by their deviation within the group",
        "gdpo",
        "aggregation: dvao",
    ),
    "guarded": Part(
        "Covariance-guarded weights (CTWA)",
        "arXiv 2602.06869",
        "raises the weight of a reward that the advantage does not follow",
        "morlhf",
        "aggregation: guarded",
    ),
    "strength": Part(
        "A dial for beta (COS-DPO's temperature)",
        "arXiv 2410.08316",
        "trains and serves one direction at several strengths",
        "panacea; served by soups and anchors too",
        "strengths: [0.5, 2]",
    ),
    "floors": Part(
        "Floors in training (MOPO)",
        "arXiv 2505.10892",
        "holds the mean of an objective above a floor by a multiplier that climbs while it is missed",
        "morlhf",
        "floors: {OBJECTIVE: SCORE}",
    ),
}
