"""One round of self-improvement: responses better than both of a conflicting pair under every objective (SIPO, steps 2 to 4).

What a prompt needs once is done once: its candidates serve all its pairs, and all its texts are one packed group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from paretune.core.bounds import Count, Natural, NotNegative, check_bounds
from paretune.core.errors import TrainingError
from paretune.core.files import fingerprint, read_json, write_json
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.pairs import Pair
from paretune.data.rows import Prompt
from paretune.generation.endpoint import Endpoint
from paretune.generation.resumable import Drawn, draw_in_parts, part_size
from paretune.methods.sipo.improve import (
    Keep,
    Rank,
    Retention,
    implicit_rewards,
    keep_rewrites,
    select,
    spread,
    training_pairs,
)
from paretune.methods.sipo.revise import Templates, suggestions
from paretune.models.adapter import Adapter
from paretune.policies.policy import Policy
from paretune.training.lab import Lab
from paretune.training.remote_stages import ask_stage, identity
from paretune.training.token_tables import PairTable


@dataclass(frozen=True)
class Search:
    """How improved responses are looked for.

    Attributes:
        refine: Review and rewrite the samples (the code of the paper does so on HelpSteer, not on BeaverTails).
        reviewer: Model that reviews: ``mod`` at the sample's preference, or the ``base`` model.
        suggestions: Number of suggestions that a review is asked for.
        templates: YAML file with the texts that ask for a review and a rewrite; by default those of the package.
        keep: Rule by which a rewrite replaces what it rewrites, see :func:`paretune.methods.sipo.improve.keep_rewrites`.
        margin: Nats of log-ratio by which y* must be above both responses (ours: keeps the noise of batch shapes out).
        rank: Rule that ranks several improving responses, see :func:`paretune.methods.sipo.improve.merits`.
        least: Number of survivors below which a warning is logged.
    """

    refine: bool = True
    reviewer: Literal["mod", "base"] = "mod"
    suggestions: Count = 3
    templates: str | None = None
    keep: Keep = "any_gain"
    margin: NotNegative = 1e-4
    rank: Rank = "sum"
    least: Natural = 200

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True)
class Candidate:
    """A response that may be better than both of a pair.

    Attributes:
        weight: Position of its preference in W.
        text: Text without special tokens.
        ids: Token ids of the text with its end of turn, as training will read it.
        rewritten: Whether it was rewritten along a review.
    """

    weight: int
    text: str
    ids: tuple[int, ...]
    rewritten: bool


Spot = tuple[int, int]
"""Position of a prompt, and of a preference in W."""

Rewards = list[dict[tuple[int, ...], np.ndarray]]
"""For each prompt the rewards ``[M]`` of its responses, by token ids."""


@dataclass(frozen=True, eq=False)
class Round:
    """The inputs of one round.

    Attributes:
        lab: Model, run folder and caches.
        number: Number of the round, from 1.
        table: Conflicting pairs; what they call chosen is merely the first response.
        adapters: Policies so far, one per objective.
        weights: Preferences W, in the order that breaks ties.
        sampling: How samples, reviews and rewrites are drawn.
        beta: Factor of the rewards.
        config: How improved responses are looked for.
        endpoint: Server that draws the answers of the base model; None draws them here, as all others.
    """

    lab: Lab
    number: int
    table: PairTable
    adapters: tuple[Adapter, ...]
    weights: tuple[Preference, ...]
    sampling: Sampling
    beta: float
    config: Search
    endpoint: Endpoint | None = None

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names, in the order of adapters and weights."""
        return self.weights[0].objectives

    @property
    def policy(self) -> Policy:
        """The mixed policy of the policies so far."""
        return Policy.mod(f"sipo round {self.number}", self.lab.lm, self.objectives, self.adapters)

    @cached_property
    def places(self) -> dict[Prompt, int]:
        """Each prompt once, with its number."""
        return {prompt: p for p, prompt in enumerate(dict.fromkeys(pair.prompt for pair in self.table.pairs))}


def improve(work: Round, counts: Counter[str]) -> tuple[list[Pair], dict[str, Any]]:
    """Return the pairs (y*, a), (y*, b) of every conflicting pair with an improved response, and the facts of the round.

    ``counts`` brings the decided and the conflicting pairs of the data (see
    :class:`paretune.methods.sipo.improve.Retention`) and counts
    on. What was found is written to ``sipo/<round>-improved.json`` in the run folder.

    Raises:
        TrainingError: rewards that are not finite, or no review with a suggestion.
    """
    table, prompts = work.table, list(work.places)
    counts["round"], counts["taken"] = work.number, len(table)
    spots = [(p, w) for p in range(len(prompts)) for w in range(len(work.weights))]
    drawn = draw(work, "samples", work.policy, [prompts[p] for p, _ in spots], [w for _, w in spots])
    counts["sampled"] = len(drawn)
    answers = usable(work, spots, drawn, False, counts)
    rewrites = rewrite(work, answers, counts) if work.config.refine and answers else {}
    rewards = measure(work, [*answers.items(), *rewrites.items()])
    chosen = choose(work, candidates(work, answers, rewrites, rewards, counts), rewards)
    counts["survivors"] = len(chosen)
    facts = report(work, chosen, Retention(**{field.name: counts[field.name] for field in fields(Retention)}))
    return [pair for n, best in chosen.items() for pair in training_pairs(table.pairs[n], best.text)], facts


def report(work: Round, chosen: Mapping[int, Candidate], retention: Retention) -> dict[str, Any]:
    """Log what a round kept and its lengths, write it to the run folder, and return the facts that adapters store."""
    lab, table = work.lab, work.table
    lab.say(f"sipo\n{Retention.header()}\n{retention}")
    facts: dict[str, Any] = {"round": work.number, "retention": asdict(retention)}
    if chosen:
        lengths = [(len(y.ids), len(table.chosen[n]), len(table.rejected[n])) for n, y in chosen.items()]
        improved, first, second = np.mean(lengths, axis=0).tolist()
        facts["mean_tokens"] = {"improved": improved, "first": first, "second": second}
        lab.say(
            f"mean tokens: {improved:.0f} of improved responses, {first:.0f} and {second:.0f} of their pairs'"
        )
    if 0 < len(chosen) < work.config.least:
        lab.say(
            f"sipo round {work.number}: only {len(chosen)} pairs have an improved response (least: {work.config.least}); "
            "fine-tuning sees them again and again"
        )
    written = [
        {
            "row": table.pairs[n].row,
            "responses": [table.pairs[n].chosen_index, table.pairs[n].rejected_index],
            "improved": y.text,
            "preference": work.weights[y.weight].as_dict(),
            "rewritten": y.rewritten,
        }
        for n, y in chosen.items()
    ]
    name = lab.own_name(f"sipo/{work.number}-improved", fingerprint(facts, written))
    write_json(lab.folder / f"{name}.json", facts | {"pairs": written})
    return facts


def draw(
    work: Round, stage: str, policy: Policy, prompts: Sequence[Prompt], weights: Sequence[int]
) -> list[tuple[str, bool]]:
    """Return for every prompt the text drawn at its preference (a number in W), and whether it was cut.

    This is a stage of the run. Its parts are kept as they are drawn, so a killed run continues with the next part.
    """
    lab, sampling = work.lab, work.sampling
    asked = [work.weights[w] for w in weights]
    seeds = [lab.training.seed * 1_000_003 + number for number in range(len(prompts))]
    words = [[[message.role, message.content] for message in prompt] for prompt in prompts]
    used = [policy.effective(preference) for preference in work.weights]
    endpoint = None if policy.adapters else work.endpoint  # it has the base model only
    who = [used[w] for w in weights]
    key = fingerprint(words, who, seeds, sampling.identity(), str(lab.lm.model.dtype), *identity(endpoint))
    size = part_size(sampling)

    def plan(numbers: range) -> tuple[str, Callable[[], list[Drawn]]]:
        def draw_part() -> list[Drawn]:
            part = slice(numbers.start, numbers.stop)
            responses = policy.generate(prompts[part], asked[part], sampling, seeds[part])
            return [(response.text, response.truncated) for response in responses]

        return fingerprint(key, numbers.start, size), draw_part

    def make(folder: Path) -> None:
        if endpoint is not None:
            answers = ask_stage(lab, endpoint, None, prompts, sampling, seeds, f"sampling {stage}")
            drawn: list[Drawn] = [(answer.text, answer.truncated) for answer in answers]
        else:
            drawn = draw_in_parts(lab.folder / "cache" / "samples", len(prompts), size, plan)
        write_json(folder / "responses.json", drawn)

    folder = lab.stage(f"sipo/{work.number}-{stage}", key, make)
    return read_json(folder / "responses.json", list[tuple[str, bool]])


def usable(
    work: Round,
    spots: Sequence[Spot],
    drawn: Sequence[tuple[str, bool]],
    rewritten: bool,
    counts: Counter[str],
) -> dict[Spot, Candidate]:
    """Return what was drawn, without empty texts and those that a token limit cut or training would drop; these are counted."""
    lab, kept = work.lab, {}
    most = lab.lm.room(lab.training.max_tokens)
    room = [most - len(lab.lm.encode_prompt(prompt)) for prompt in work.places]
    for (p, w), (text, cut) in zip(spots, drawn, strict=True):
        ids = tuple(lab.lm.encode_response(text))
        if not text.strip():
            counts["empty"] += 1
        elif cut or len(ids) > room[p]:
            counts["cut"] += 1
        else:
            kept[p, w] = Candidate(w, text, ids, rewritten)
    return kept


def rewrite(work: Round, answers: Mapping[Spot, Candidate], counts: Counter[str]) -> dict[Spot, Candidate]:
    """Return answers rewritten along their reviews, each at the preference it was drawn at; without a suggestion, none.

    Raises:
        TrainingError: no review at all holds a suggestion.
    """
    config, templates, objectives = work.config, Templates.load(work.config.templates), work.objectives
    prompts, spots = list(work.places), list(answers)
    questions = [
        templates.ask_review(prompts[p], answers[p, w].text, objectives, config.suggestions) for p, w in spots
    ]
    reviewer = work.policy if config.reviewer == "mod" else Policy.base(work.lab.lm, objectives)
    reviews = draw(work, "reviews", reviewer, questions, [w for _, w in spots])
    read = {
        spot: suggestions(text, config.suggestions) for spot, (text, _) in zip(spots, reviews, strict=True)
    }
    kept = [spot for spot in spots if read[spot]]
    counts["unread"] = len(spots) - len(kept)
    if not kept:
        raise TrainingError(
            f"sipo/{work.number}-reviews: none of {len(spots)} reviews holds a numbered or dashed suggestion, the first is "
            f"{reviews[0][0][:80]!r}; set methods.sipo.reviewer=base, give other templates, or set methods.sipo.refine=false"
        )
    questions = [
        templates.ask_rewrite(prompts[p], answers[p, w].text, read[p, w], objectives) for p, w in kept
    ]
    return usable(
        work, kept, draw(work, "rewrites", work.policy, questions, [w for _, w in kept]), True, counts
    )


def measure(work: Round, answers: Sequence[tuple[Spot, Candidate]]) -> Rewards:
    """Return R_i of the pairs' responses and of all candidates: every prompt is one group, read once by each policy."""
    lab, places = work.lab, work.places
    texts: list[dict[tuple[int, ...], None]] = [{} for _ in places]
    for pair, *ids in zip(work.table.pairs, work.table.chosen, work.table.rejected, strict=True):
        texts[places[pair.prompt]].update(dict.fromkeys(ids))
    for (p, _), candidate in answers:
        texts[p][candidate.ids] = None
    groups = [(lab.lm.encode_prompt(prompt), list(texts[p])) for prompt, p in places.items()]
    reference = lab.response_logps(groups)
    logps = [lab.response_logps(groups, adapter) for adapter in work.adapters]
    rewards = [
        implicit_rewards(
            np.stack([of_policy[p].numpy() for of_policy in logps], axis=1), reference[p].numpy(), work.beta
        )
        for p in range(len(groups))
    ]
    return [dict(zip(of, values, strict=True)) for of, values in zip(texts, rewards, strict=True)]


def candidates(
    work: Round,
    answers: Mapping[Spot, Candidate],
    rewrites: Mapping[Spot, Candidate],
    rewards: Rewards,
    counts: Counter[str],
) -> list[list[Candidate]]:
    """Return the candidates of every prompt: answers or their rewrites (keep or revert), each text once."""
    both = [spot for spot in answers if spot in rewrites]
    kept: set[Spot] = set()
    if both:
        new, old = (np.stack([rewards[p][of[p, w].ids] for p, w in both]) for of in (rewrites, answers))
        kept = {
            spot
            for spot, keep in zip(both, keep_rewrites(new, old, work.config.keep).tolist(), strict=True)
            if keep
        }
    counts["rewritten"], counts["kept"] = len(both), len(kept)
    by_prompt: list[dict[str, Candidate]] = [{} for _ in work.places]
    for spot, answer in answers.items():
        going = [rewrites[spot]] if spot in kept else [answer]
        if spot in kept and work.config.keep == "keep_both":
            going = [answer, rewrites[spot]]
        for candidate in going:
            counts["repeated"] += candidate.text in by_prompt[spot[0]]
            by_prompt[spot[0]].setdefault(candidate.text, candidate)
    return [list(of.values()) for of in by_prompt]


def choose(work: Round, of_prompt: Sequence[Sequence[Candidate]], rewards: Rewards) -> dict[int, Candidate]:
    """Return y* of each conflicting pair that has one, by its number in the table."""
    config, table, places = work.config, work.table, work.places
    scale = spread(np.stack([values for of in rewards for values in of.values()]))
    chosen = {}
    for n, pair in enumerate(table.pairs):
        p = places[pair.prompt]
        if of_prompt[p]:
            best = select(
                np.stack([rewards[p][candidate.ids] for candidate in of_prompt[p]]),
                rewards[p][table.chosen[n]],
                rewards[p][table.rejected[n]],
                margin=work.beta * config.margin,
                rank=config.rank,
                scale=scale,
                order=[2 * candidate.weight + candidate.rewritten for candidate in of_prompt[p]],
            )
            if best is not None:
                chosen[n] = of_prompt[p][best]
    return chosen
