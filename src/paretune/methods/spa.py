"""SPA: a model labels its own samples, round by round, from a small set that people labelled.

Kim et al. 2024 (arXiv 2406.04412, "Spread preference annotation", first called Selfie). Here each of M objectives has a policy and
labels; with pi_i the policy of objective i, pi_ref the base model and R_i = beta log(pi_i / pi_ref):

    1. pi_i by DPO on D_i, what people labelled
    2. sample K responses to each prompt from the soup of the pi_i, at a preference of a grid
    3. label: under objective i the response with the largest R_i is chosen, the one with the smallest is rejected
    4. fine-tune each pi_i from itself, its reference being pi_i before, with labels smoothed where the present policy doubts them:
           L = -(1 - a + a I) log sigmoid(z) - a (1 - I) log sigmoid(-z)      z = beta Delta log(pi / pi_i)
           I = [ beta ((1 + e) Delta log pi - e Delta log pi_i) > tau ]       tau: a low quantile of the last steps; a = 0 at first
    5. keep the new pi_i if its R_i agrees with people on held-out pairs as often as before; else objective i is done
    6. repeat from 2 (``rounds``)

The paper has one objective, whose policy samples for itself. M objectives give M labels of every sample at no further cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from paretune.core.bounds import Count, Natural, NotNegative, Positive, Share
from paretune.core.files import fingerprint, read_json, write_json
from paretune.core.preference import Preference, preference_grid
from paretune.data.pairs import Pair
from paretune.data.rows import Prompt
from paretune.generation.resumable import Drawn, draw_in_parts, part_size
from paretune.methods.base import Card, DPOConfig, Inputs, Method, Traits
from paretune.models.adapter import Adapter
from paretune.planning.work import Fits, Stage, Work, reading
from paretune.policies.policy import Policy
from paretune.training.lab import Lab
from paretune.training.loop import Training
from paretune.training.preference_pairs import PairLoss
from paretune.training.smoothing import Smoothing
from paretune.training.token_tables import PairTable

SIDES = 5
"""Preferences on each side of the grid at which responses are sampled."""
FEW = 20
"""Held-out pairs below which an accuracy tells little, and the run says so."""


@dataclass(frozen=True)
class SPAConfig(DPOConfig):
    """The settings of SPA, beside those of DPO on what people labelled.

    Attributes:
        rounds: Most rounds of sampling, labelling and fine-tuning.
        prompts: Prompts of the training data that a round samples for, the next ones in each round; 0 is all.
        responses: Responses K that are sampled for a prompt, all at one preference.
        rate: Factor on ``train.learning_rate`` in fine-tuning.
        steps: Optimiser steps of fine-tuning; 0 takes ``train.steps``.
        smooth: Weight a of the other label where a label is doubted; 0 doubts none.
        doubtful: Share of pairs that is doubted: tau is this quantile of the margins of the last steps.
        window: Number of these steps.
        begin: Share of the steps of a fine-tuning before labels are doubted.
        extrapolate: e of the margin, how far the policy is thought on in the direction of its training.
        tolerance: Share of held-out pairs by which agreement with people may fall in a round before an objective is done.
        serve: How the policies are served: as a ``soup``, or mixed at every token (``mod``).
    """

    rounds: Count = 2
    prompts: Natural = 0
    responses: Annotated[int, Ge(2)] = 2
    rate: Positive = 1.0
    steps: Natural = 0
    smooth: Share = 0.1
    doubtful: Share = 0.1
    window: Count = 50
    begin: Share = 0.2
    extrapolate: NotNegative = 1.0
    tolerance: Share = 0.0
    serve: Literal["soup", "mod"] = "soup"

    @property
    def round_loss(self) -> PairLoss:
        """The loss of a pair that the model labelled."""
        smoothing = Smoothing(self.smooth, self.doubtful, self.window, self.begin, self.extrapolate)
        return replace(self.loss, smoothing=smoothing if self.smooth else None)


def train(inputs: Inputs, config: SPAConfig) -> Policy:
    """Return the policy of one adapter per objective, each after its last round that people's labels bear out.

    Raises:
        TrainingError: An objective has no pair that people labelled, or none that is held out.
    """
    lab, names = inputs.lab, inputs.objectives
    policies = dict(zip(names, inputs.corners(config.single), strict=True))
    kept = {name: lab.pair_table(lab.pairs(inputs.validation, name, config.pairs), name) for name in names}
    agreed = {name: agreement(lab, kept[name], policies[name], config.beta) for name in names}
    for name, table in kept.items():
        if len(table) < FEW:
            lab.say(
                f"spa: {len(table)} held-out pairs of {name!r} decide when to stop, too few to tell a small fall from chance"
            )
    open_ = list(names)
    for number in range(1, config.rounds + 1):
        labelled = own_labels(inputs, config, number, policies)
        for name in list(open_):
            if not labelled[name]:
                lab.say(
                    f"spa round {number}: no sample can be labelled for {name!r}, which stays as it is; raise "
                    "sampling.max_new_tokens where samples were cut, or sampling.temperature where they were repeated"
                )
                open_.remove(name)
                continue
            made = refit(inputs, config, number, policies[name], labelled[name], kept[name])
            accuracy = agreement(lab, kept[name], made, config.beta)
            said = f"spa round {number}: {name!r} agrees with people on {accuracy:.3f} of {len(kept[name])} held-out pairs"
            if accuracy < agreed[name] - config.tolerance:
                lab.say(
                    f"{said}, after {agreed[name]:.3f} before; the round is taken back, and this objective is done"
                )
                open_.remove(name)
            else:
                lab.say(f"{said}, after {agreed[name]:.3f} before")
                policies[name], agreed[name] = made, accuracy
        if not open_:
            break
    served = Policy.mod if config.serve == "mod" else Policy.soup
    return served("spa", lab.lm, names, list(policies.values()))


def fine_tuning(training: Training, config: SPAConfig) -> Training:
    """Return the settings of a round's fine-tuning."""
    return replace(
        training, learning_rate=config.rate * training.learning_rate, steps=config.steps or training.steps
    )


def agreement(lab: Lab, table: PairTable, policy: Adapter, beta: float) -> float:
    """Return the share of people's pairs on which the implicit reward prefers chosen; a tie counts half."""
    signs = lab.implicit_gap(table, policy, beta).sign()
    return float(((signs + 1) / 2).mean())


def refit(
    inputs: Inputs,
    config: SPAConfig,
    number: int,
    policy: Adapter,
    pairs: Sequence[Pair],
    held_out: PairTable,
) -> Adapter:
    """Return a policy fine-tuned from itself on pairs that it labelled; people's held-out pairs choose its best parameters."""
    lab, objective = inputs.lab, pairs[0].objective
    with lab.trained_by(fine_tuning(lab.training, config)):
        table = lab.train_table(pairs, objective)
        parts = [replace(part, reference=lab.logps(part, policy)) for part in (table, held_out)]
        info = {"method": "spa", "objective": objective, "round": number}
        return lab.fit_pairs(f"spa-{number}-{objective}", parts[0], parts[1], config.round_loss, info, policy)


def own_labels(
    inputs: Inputs, config: SPAConfig, number: int, policies: dict[str, Adapter]
) -> dict[str, list[Pair]]:
    """Return the pairs of a round under each objective: samples of the soup, labelled by the policies' implicit rewards.

    Texts that are empty, cut by the token limit or too long to train on are counted and left out, and so are prompts with one text.
    """
    lab, names = inputs.lab, list(policies)
    rows = sampled_rows(len(inputs.train.rows), config.prompts, number)
    prompts = [inputs.train.rows[row].prompt for row in rows]
    drawn = draw(inputs, config, number, prompts, list(policies.values()))
    counts: Counter[str] = Counter()
    texts = [usable(lab, prompt, part, counts) for prompt, part in zip(prompts, drawn, strict=True)]
    kept = [
        (row, prompt, found)
        for row, prompt, found in zip(rows, prompts, texts, strict=True)
        if len(found) > 1
    ]
    left = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    if left or len(kept) < len(prompts):
        why = f" (left out: {left})" if left else ""
        lab.say(f"spa round {number}: {len(kept)} of {len(prompts)} prompts have two different samples{why}")
    if not kept:
        return {name: [] for name in names}
    groups = [(lab.lm.encode_prompt(prompt), list(found.values())) for _, prompt, found in kept]
    reference = lab.response_logps(groups)
    logps = [lab.response_logps(groups, policy) for policy in policies.values()]
    rewards = [config.beta * torch.stack([own[n] - reference[n] for own in logps]) for n in range(len(kept))]
    made = {
        name: [
            labelled(row, prompt, list(found), reward, i, name)
            for (row, prompt, found), reward in zip(kept, rewards, strict=True)
            if float(reward[i].max()) > float(reward[i].min())
        ]
        for i, name in enumerate(names)
    }
    report(lab, number, made)
    return made


def sampled_rows(count: int, prompts: int, number: int) -> list[int]:
    """Return the rows that round ``number`` (from 1) samples for: all, or the next ``prompts`` in the order of the data."""
    if not 0 < prompts < count:
        return list(range(count))
    first = (number - 1) * prompts
    return sorted((first + n) % count for n in range(prompts))


def labelled(row: int, prompt: Prompt, texts: Sequence[str], reward: Tensor, i: int, objective: str) -> Pair:
    """Return the widest pair of samples under objective i; the labels of all objectives stand beside it.

    Args:
        row: Row of the prompt in the data.
        prompt: The prompt.
        texts: K samples.
        reward: R ``[M, K]``.
        i: Number of the objective.
        objective: Its name.
    """
    best, worst = int(reward[i].argmax()), int(reward[i].argmin())
    gaps = (reward[:, best] - reward[:, worst]).tolist()
    labels = tuple(float((gap > 0) - (gap < 0)) for gap in gaps)
    return Pair(
        prompt, texts[best], texts[worst], objective, row, best, worst, False, False, tuple(gaps), labels
    )


def usable(
    lab: Lab, prompt: Prompt, drawn: Sequence[tuple[str, bool]], counts: Counter[str]
) -> dict[str, tuple[int, ...]]:
    """Return the different texts that can be trained on with their token ids, and count the others."""
    room, kept = lab.limit.most - len(lab.lm.encode_prompt(prompt)), dict[str, tuple[int, ...]]()
    for text, cut in drawn:
        ids = tuple(lab.lm.encode_response(text))
        if not text.strip():
            counts["empty"] += 1
        elif cut or len(ids) > room:
            counts["cut or too long"] += 1
        elif text in kept:
            counts["repeated"] += 1
        else:
            kept[text] = ids
    return kept


def draw(
    inputs: Inputs, config: SPAConfig, number: int, prompts: Sequence[Prompt], policies: Sequence[Adapter]
) -> list[list[tuple[str, bool]]]:
    """Return K samples of each prompt, with whether each was cut: a stage of the run, kept part by part as it is drawn."""
    lab, K, sampling = inputs.lab, config.responses, inputs.sampling
    soup = Policy.soup(f"spa round {number}", lab.lm, inputs.objectives, policies)
    grid = preference_grid(inputs.objectives, SIDES)
    spots = [(p, k) for p in range(len(prompts)) for k in range(K)]
    asked: list[Preference] = [grid[(p + number) % len(grid)] for p, _ in spots]
    seeds = [(lab.training.seed * 1_000_003 + number * 7_927 + n) % 2**32 for n in range(len(spots))]
    words = [[[message.role, message.content] for message in prompt] for prompt in prompts]
    who = [soup.effective(preference) for preference in grid]
    key = fingerprint(words, who, K, number, seeds, sampling.identity(), str(lab.lm.model.dtype))

    def plan(numbers: range) -> tuple[str, Callable[[], list[Drawn]]]:
        def draw_part() -> list[Drawn]:
            part = slice(numbers.start, numbers.stop)
            asking = [prompts[p] for p, _ in spots[part]]
            responses = soup.generate(asking, asked[part], sampling, seeds[part])
            return [(response.text, response.truncated) for response in responses]

        return fingerprint(key, numbers.start, part_size(sampling)), draw_part

    def make(folder: Path) -> None:
        drawn = draw_in_parts(lab.folder / "cache" / "samples", len(spots), part_size(sampling), plan)
        write_json(folder / "responses.json", drawn)

    folder = lab.stage(f"spa/{number}-samples", key, make)
    drawn = read_json(folder / "responses.json", list[tuple[str, bool]])
    return [drawn[p * K : (p + 1) * K] for p in range(len(prompts))]


def report(lab: Lab, number: int, made: dict[str, list[Pair]]) -> None:
    """Write the labels of a round to ``spa/<round>-labels.json`` in the run folder."""
    written = {
        name: [
            {"row": p.row, "chosen": p.chosen, "rejected": p.rejected, "rewards": list(p.gaps)} for p in pairs
        ]
        for name, pairs in made.items()
    }
    name = lab.own_name(f"spa/{number}-labels", fingerprint(written))
    lab.team.once(lambda: write_json(lab.folder / f"{name}.json", written))


def work(run: Work, name: str, config: SPAConfig, training: Training) -> list[Stage]:
    """Return the stages that train on what people labelled, and for each round those that sample, label and fine-tune."""
    stages = run.corners(config.beta, config.pairs, training, nll=config.nll, anchor=config.anchor)
    M, rows, K = len(run.objectives), run.rows["train"], config.responses
    count = min(config.prompts, rows.count) if config.prompts else rows.count
    texts = replace(rows, count=count, responses=float(K), response=run.answer)
    held_out = run.pair_texts("validation", run.objectives[0], config.pairs)
    people = tuple(reading(held_out, training.rank) for _ in range(M))
    stages.append(Stage(f"agreement: {name}", "held-out pairs read by the policies", people))
    tuning = fine_tuning(training, config)
    trained_on = replace(texts, responses=2.0)
    for number in range(1, config.rounds + 1):
        decoding = run.decoding(count * K, rows, M * training.rank, 1, K)
        labels = (reading(texts, 0), *(reading(texts, training.rank) for _ in range(M)))
        what = f"{count * K:.0f} answers, labelled by the policies of {M} objectives"
        stages.append(Stage(f"answers: {name}, {number}", what, labels, (decoding,)))
        fits = Fits(tuning, trained_on, training.rank, M, held_out)
        stage = run.trained(f"train: {name}, {number}", "one per objective", fits)
        stages.append(replace(stage, passes=(*stage.passes, *people)))
    run.assumptions.append(
        "no round of SPA is taken back, and every prompt gets different samples that end within the token limit"
    )
    return stages


METHOD = Method(
    SPAConfig,
    train,
    work,
    Card(
        title="SPA",
        paper="arXiv 2406.04412",
        needs="pairs for each objective, a few are enough, and time for sampling",
        runs="M of the soup, and up to M more for each round",
        enters="gates: the sum of one update per objective, weighted by the preference (or the next-token distribution, as in MOD)",
        family="pairs",
    ),
    traits=lambda config: Traits(mixed=config.serve == "mod", beta=config.beta),
)
