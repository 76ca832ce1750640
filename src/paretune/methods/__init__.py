"""The methods, one paper a file; this dict is where a new one is added."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """What a person must know to choose a method.

    Attributes:
        title: its usual name.
        paper: where it is defined.
        needs: the data it trains on.
        runs: training runs for M objectives and N preferences.
        enters: where the preference enters the policy.
    """

    title: str
    paper: str
    needs: str
    runs: str
    enters: str


METHODS = {
    "dpo-soup": Method(
        "DPO soups",
        "arXiv 2306.04488 (soups), arXiv 2305.18290 (DPO)",
        "pairs for each objective",
        "M",
        "weights: the sum of one update an objective, weighted by the preference",
    ),
    "mod": Method(
        "MOD",
        "arXiv 2406.18853",
        "pairs for each objective",
        "M, those of the soup",
        "decoding: the next-token distributions of one adapter an objective are mixed",
    ),
    "modpo": Method(
        "MODPO",
        "arXiv 2310.03708",
        "pairs for each objective, or pairs for one and scores for the others",
        "M + one for each preference that is not one-hot",
        "weights: one adapter a preference, the nearest is used",
    ),
    "panacea": Method(
        "Panacea",
        "arXiv 2402.02030",
        "pairs for each objective, or pairs labelled by all",
        "1",
        "weights: the singular values of one update, of which one an objective follows the preference",
    ),
    "dpo-lw": Method(
        "DPO loss weighting",
        "baseline in arXiv 2310.03708 and arXiv 2502.14354",
        "pairs labelled by one or more objectives",
        "N",
        "weights: one adapter a preference, the nearest is used",
    ),
    "paretohqd": Method(
        "ParetoHqD",
        "arXiv 2504.16628",
        "scored responses, and scorers for stage 2",
        "N, each in two stages",
        "weights: one adapter a preference, the nearest is used",
    ),
    "ric": Method(
        "Rewards-in-Context",
        "arXiv 2402.10207",
        "scored responses, and scorers for the online stage",
        "1, in an offline and an online stage",
        "prompt: the scores that a preference asks for",
    ),
    "sipo": Method(
        "SIPO",
        "arXiv 2502.14354",
        "pairs labelled by all objectives",
        "M of the soup, and M more",
        "decoding, as in MOD (or weights, as in a soup)",
    ),
    "morlhf": Method(
        "MORLHF",
        "linear scalarisation; RLOO arXiv 2402.14740, conditioned as in arXiv 2402.02030",
        "prompts with some responses, and a scorer for each objective",
        "N, or 1 conditioned",
        "weights: one adapter a preference, or one whose gates follow it; or the prompt",
    ),
    "gdpo": Method(
        "GDPO",
        "arXiv 2601.05242",
        "prompts with some responses, and a scorer for each objective",
        "N, or 1 conditioned",
        "as in MORLHF; rewards are normalised in each group first",
    ),
}
