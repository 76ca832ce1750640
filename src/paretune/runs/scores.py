"""What a run says of its scores: those of every single answer, and how far each scorer can be trusted."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Set
from dataclasses import asdict
from pathlib import Path

from paretune.core.errors import ParetuneError
from paretune.core.files import write_text
from paretune.core.thought import has_thought, is_unfinished
from paretune.evaluation.judge import Judgement
from paretune.fronts.front import Interval
from paretune.fronts.record import FILE as FRONT
from paretune.fronts.record import FrontRecord
from paretune.fronts.record_facts import Asked, ScorerFacts
from paretune.models.reward_heads import FILE as REWARD
from paretune.runs.config import RunConfig
from paretune.scoring.bradley_terry import load_head
from paretune.scoring.cache import ScoreCache
from paretune.scoring.function_scorer import FunctionScorer
from paretune.scoring.scorer import Scorer
from paretune.scoring.usage import Usage


def write_scores(judgement: Judgement, scorers: Mapping[str, ScorerFacts], file: Path) -> None:
    """Write one line of JSON for each answer: of every policy, the base model and the corners, also off the simplex.

    Args:
        judgement: What was measured.
        scorers: Objective -> what gave its scores.
        file: The file to write, which :func:`paretune.data.score_files.read_scores` reads.
    """
    write_text(file, "".join(_lines(judgement, scorers)))


def _lines(judgement: Judgement, scorers: Mapping[str, ScorerFacts]) -> Iterator[str]:
    objectives = judgement.objectives
    marks = {objective: scorers[objective].fingerprint for objective in objectives}
    evaluations = [*judgement.everything.values(), *judgement.extrapolations.values()]
    for evaluation in evaluations:
        for preference, point in zip(evaluation.preferences, evaluation.points, strict=True):
            weights = preference.over(objectives).as_dict()
            for prompt, answers in zip(evaluation.prompts, point.scores.tolist(), strict=True):
                for sample, scores in enumerate(answers):
                    row = {
                        "policy": evaluation.name,
                        "preference": weights,
                        "prompt": prompt,
                        "sample": sample,
                        "scores": dict(zip(objectives, scores, strict=True)),
                        "scorer": marks,
                    }
                    yield json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def responses_scored(folder: Path) -> int:
    """Return how many responses frozen models have scored for a run folder, in all its processes and restarts.

    They are counted where they are kept; where that was lost in part, they are no fewer than the last record of the run told.
    """
    try:
        told = FrontRecord.read(folder / FRONT).scoring_forwards or 0
    except ParetuneError:  # there is none yet, or it is damaged and about to be made again
        told = 0
    return max(told, len(ScoreCache(folder / "cache" / "logps.sqlite")))


def scorer_facts(
    scorer: Scorer, prompts: Collection[str], used: Usage | None = None, judge: FunctionScorer | None = None
) -> ScorerFacts:
    """Return what is known of a scorer that judges answers to ``prompts``, the keys of the held-out prompts.

    Args:
        scorer: The scorer.
        prompts: Keys of the held-out prompts.
        used: What it asked, where it asks a judge or a server, or what ``judge`` asked.
        judge: The judge whose labels its head was fitted to; None where they are the data's.
    """
    if not isinstance(scorer, FunctionScorer) or not (scorer.head or scorer.judge):
        return ScorerFacts(fingerprint=scorer.fingerprint)
    if scorer.judge:
        return ScorerFacts(fingerprint=scorer.fingerprint, asked=_asked(scorer, used or Usage()))
    if (Path(scorer.head) / REWARD).is_file():
        return _reward_facts(scorer, set(prompts))
    head = load_head(scorer.head)
    fit = head.report
    return ScorerFacts(
        fingerprint=scorer.fingerprint,
        accuracy=Interval(fit.accuracy, fit.low, fit.high),
        train_accuracy=fit.train_accuracy,
        longer_accuracy=fit.longer_accuracy,
        pairs=fit.test_pairs,
        prompts=fit.test_prompts,
        seen=None if head.prompts is None else len(head.prompts & set(prompts)),
        asked=_asked(judge, used) if judge is not None and used else None,
    )


def _reward_facts(scorer: FunctionScorer, prompts: Set[str]) -> ScorerFacts:
    """Return what is known of a reward model's head."""
    from paretune.models.reward_heads import RewardModel

    report = RewardModel.load(scorer.head).report
    by_name = {each["objective"]: each for each in report["objectives"]}
    fit = by_name.get(scorer.part or scorer.objective)
    if fit is None:
        return ScorerFacts(fingerprint=scorer.fingerprint)
    return ScorerFacts(
        fingerprint=scorer.fingerprint,
        accuracy=Interval(fit["accuracy"], fit["low"], fit["high"]),
        train_accuracy=fit["train_accuracy"],
        longer_accuracy=fit["longer_accuracy"],
        pairs=fit["test_pairs"],
        prompts=fit["test_prompts"],
        seen=len(prompts & set(report["fitted_on"])),
    )


def _asked(judge: FunctionScorer, counts: Usage) -> Asked:
    """Return what a judge or a server was asked, with its cost."""
    money = judge.prices.of(counts.input_tokens, counts.output_tokens)
    currency = "" if money is None else judge.prices.currency
    return Asked(judge=judge.judge, money=money, currency=currency, **asdict(counts))


def scorer_cautions(scorers: Mapping[str, ScorerFacts]) -> tuple[str, ...]:
    """Return what cannot be believed of scores: of a head that judges prompts it was fitted on, or is not shown to beat chance."""
    cautions = []
    for objective, facts in scorers.items():
        if facts.seen:
            cautions.append(
                f"The head that scores {objective} was fitted on {facts.seen} of this run's held-out prompts, so its scores there "
                "are too sure. Fit it on other data, or hold other prompts out."
            )
        if facts.asked is not None and facts.asked.turned * 4 > facts.asked.compared:
            cautions.append(
                f"The judge of {objective} changed its verdict with the order of the answers on {facts.asked.turned} of "
                f"{facts.asked.compared} pairs; these count as ties, or as less than a whole preference."
            )
        if facts.accuracy is not None and facts.accuracy.low <= 0.5:
            cautions.append(
                f"The head that scores {objective} ranks {facts.accuracy.value:.0%} of {facts.pairs} held-out pairs as labelled "
                f"[{facts.accuracy.low:.0%}, {facts.accuracy.high:.0%}], which is not shown to be better than chance. Give it more "
                "comparisons."
            )
    return tuple(cautions)


def thought_cautions(config: RunConfig, judgement: Judgement) -> tuple[str, ...]:
    """Return how many of the measured answers think before they answer, and how many were cut before an answer began."""
    evaluations = [*judgement.everything.values(), *judgement.extrapolations.values()]
    texts = [
        text
        for evaluation in evaluations
        for point in evaluation.points
        for answers in point.responses
        for text in answers
    ]
    thinking = sum(map(has_thought, texts))
    if not thinking:
        return ()
    scored = [str(spec["objective"]) for spec in config.score if spec.get("thinking", False)]
    whole = f"; it is scored on {', '.join(scored)} (thinking: true)" if scored else ""
    cut = sum(map(is_unfinished, texts))
    cure = (
        f" {cut} of them were cut within their thought, so that nothing was left to score: raise sampling.max_new_tokens, or let "
        "the model answer at once, such as by chat_template: {enable_thinking: false}."
        if cut
        else ""
    )
    return (
        f"{thinking} of {len(texts)} answers think first. Their thought is not part of what is scored{whole}.{cure}",
    )
