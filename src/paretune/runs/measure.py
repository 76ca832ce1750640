"""The last stages of a run: policies are measured side by side on held-out prompts, and the report is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from paretune.core.errors import ConfigError, ParetuneError, ScoreError
from paretune.core.files import REMAKE, fingerprint, read_json, write_json
from paretune.core.meter import shares, spent_of
from paretune.core.preference import Preference
from paretune.core.progress import found_finished, stage
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Row
from paretune.evaluation.evaluate import HeldOut, evaluate
from paretune.evaluation.judge import Judgement, judge, mean_interval
from paretune.evaluation.judged import (
    Evaluation,
    Judged,
    Share,
    StoredPoint,
    at_prompts,
    scored_prompts,
    spent_by,
)
from paretune.evaluation.remote import drawn_by
from paretune.evaluation.token_kl import audit
from paretune.fronts.front import reference_point
from paretune.fronts.record import FILE, FrontRecord, MeasuredPolicy
from paretune.fronts.score_table import FILE as SCORES
from paretune.policies.policy import Policy
from paretune.reports.beside import ANSWERS_FILE
from paretune.reports.beside import FOLDER as DATA
from paretune.reports.card import About, write_card
from paretune.reports.picture import write_picture
from paretune.reports.report import write_report
from paretune.runs.about_data import about_data
from paretune.runs.config import RunConfig
from paretune.runs.data_files import write_answers, write_card_beside
from paretune.runs.prepare import label_judges
from paretune.runs.recorded import policy_entry, record_of, with_facts
from paretune.runs.scorer_usage import keep_usage, usage_lines
from paretune.runs.scores import (
    scorer_facts,
    write_scores,
)
from paretune.scoring.scorer import Scorer, release
from paretune.training.lab import Lab
from paretune.training.remote_stages import identity
from paretune.training.stages import StageRecord


def write_front(
    config: RunConfig,
    lab: Lab,
    policies: dict[str, Policy],
    corners: Policy,
    splits: dict[str, ScoredDataset],
    scorers: Sequence[Scorer],
    asked: Mapping[str, Sequence[Preference]] | None = None,
) -> Path:
    """Measure the policies, write ``front.json``, picture, model card and report, and return the report's path.

    Args:
        config: The run's config.
        lab: The model and the run folder.
        policies: Name -> policy; anchors are measured at the run's preferences, others at the fine grid.
        corners: The single-objective models as a soup; their mixture is the baseline.
        splits: The parts train (for the report), validation and test of the data.
        scorers: One per objective.
        asked: Policy name -> preferences to measure it at instead.
    """
    judgement = measure(config, lab, policies, corners, splits["test"], scorers, asked or {})
    measured = tuple(policy_entry(config, lab, judgement, policies[name]) for name in judgement.evaluations)
    audited = tuple(
        _audited(config, lab, judgement, policies[entry.name], splits["test"], entry) for entry in measured
    )
    keys = {row.key for row in _judged_rows(config, splits["test"])}
    judges = {judge.objective: judge for judge in label_judges(config)}
    used = lab.team.once(partial(keep_usage, lab.folder, [*scorers, *judges.values()]))
    facts = {
        scorer.objective: scorer_facts(scorer, keys, used.get(scorer.objective), judges.get(scorer.objective))
        for scorer in scorers
    }
    for line in usage_lines(scorers, used):
        lab.say(line)
    record = record_of(config, lab, judgement, audited, splits, facts)
    about = about_data(config.data.source, config.data.test)
    about = replace(about, base_model=lab.lm.hub_name or config.model, chat_template=config.chat_template)
    data = (config.data.source, config.data.test)

    def write() -> Path:
        answers = write_answers(judgement, splits["test"].rows, lab.folder / DATA / ANSWERS_FILE)
        write_card_beside(record, splits, answers, data, lab.folder)
        return _write(record, judgement, lab.folder, about)

    return lab.team.once(write)


def _write(record: FrontRecord, judgement: Judgement, folder: Path, about: About) -> Path:
    with stage("report"):
        write_scores(judgement, record.scorers, folder / SCORES)
        record.write(folder / FILE)
        write_picture(record, folder / "front.png")
        write_card(record, folder / "README.md", about)
        return write_report(record, folder)


def measure(
    config: RunConfig,
    lab: Lab,
    policies: dict[str, Policy],
    corners: Policy,
    test: ScoredDataset,
    scorers: Sequence[Scorer],
    asked: Mapping[str, Sequence[Preference]],
) -> Judgement:
    """Evaluate every policy, the base model and the corners on the held-out prompts."""
    objectives = corners.objectives
    measured = partial(measure_points, config, lab, test, scorers)
    base = measured(Policy.base(lab.lm, objectives), [Preference.uniform(objectives)])
    ends = measured(
        corners,
        [Preference.one_hot(objective, objectives) for objective in objectives],
    )
    evaluations = {
        name: measured(policy, asked.get(name) or measured_at(config, policy))
        for name, policy in policies.items()
    }
    beyond = config.extrapolations(objectives)
    extrapolations = {
        name: measured(policy, beyond) for name, policy in policies.items() if beyond and policy.extrapolates
    }
    every = {"base": base, "corners": ends}, evaluations, extrapolations
    (both, evaluations, extrapolations) = _fully_scored(lab, *every)
    base, ends = both["base"], both["corners"]
    stated = config.evaluate.reference_point
    if stated is None:
        reference = reference_point(base.front, ends.front, *(e.front for e in evaluations.values()))
    else:
        reference = np.array([_stated(stated, objective) for objective in objectives])
    judgement = judge(evaluations, base, ends, reference, config.evaluate.resamples)
    return replace(judgement, extrapolations=extrapolations, shown=config.evaluate.shown)


def _fully_scored(lab: Lab, *groups: dict[str, Evaluation]) -> list[dict[str, Evaluation]]:
    """Return evaluations on the prompts all of whose answers have scores, so that all are judged on the same.

    Raises:
        ScoreError: Fewer than two prompts are left.
    """
    every = [evaluation for group in groups for evaluation in group.values()]
    places, count = scored_prompts(every), len(every[0].prompts)
    if len(places) == count:
        return list(groups)
    lab.leave_out(
        f"{count - len(places)} of {count} held-out prompts have an answer that got no score, and were left out of the measurement"
    )
    if len(places) < 2:
        raise ScoreError(
            f"{len(places)} of {count} held-out prompts have scores of all their answers; expected at least 2. See which scorer "
            "fails, or measure on more prompts"
        )
    return [{name: at_prompts(each, places) for name, each in group.items()} for group in groups]


def measured_at(config: RunConfig, policy: Policy) -> list[Preference]:
    """Return where a policy is measured: anchors at the preferences of the run, others at the fine grid."""
    return (config.grid if policy.anchor_preferences else config.fine_grid)(policy.objectives)


def measure_points(
    config: RunConfig,
    lab: Lab,
    test: ScoredDataset,
    scorers: Sequence[Scorer],
    policy: Policy,
    asked: Sequence[Preference],
) -> Evaluation:
    """Evaluate one policy at the preferences ``asked`` on the held-out prompts.

    Points are kept in ``fronts/`` under everything that decides them, and shared by policies that compute the same there.
    """
    held_out = _held_out(config, lab, test, scorers)
    endpoint = config.server
    draw, sampler = None, []
    if endpoint is not None and policy.name in endpoint.policies:
        draw = drawn_by(endpoint, policy, lab.folder / "cache" / "samples", lab.team)
        sampler = [
            *identity(endpoint)[0][:1],
            endpoint.policies[policy.name],
            *identity(endpoint)[0][2:],
        ]  # it has its own random numbers
    conditions = fingerprint(
        list(held_out.ids),
        config.sampling.identity(),
        config.evaluate.samples,
        config.seed,
        [s.fingerprint for s in scorers],
        str(lab.lm.model.dtype),
        *sampler,
    )
    # Preferences that fill one batch are judged together and then kept: a kill loses no more than these.
    together = max(1, config.sampling.batch_size // (len(held_out.prompts) * config.evaluate.samples))
    if draw is not None:
        together = len(asked)  # a server's answers are kept as they come
    files = {
        key: lab.folder / "fronts" / f"{fingerprint(conditions, key)}.json"
        for key in map(policy.effective, asked)
    }
    shape = (len(held_out.prompts), config.evaluate.samples, len(policy.objectives))
    known = lab.team.once(partial(stored_points, files, shape))
    reused, name = len(known) == len(files), f"front/{policy.name}"
    if reused:
        seconds, spent = spent_by(name, known.values())
        found_finished(name, seconds, spent)
        lab.stages.append(StageRecord(name, seconds, True, spent))
    else:
        own = sum(point.spent is not None and point.spent["stage"] == name for point in known.values())
        with stage(name, share=1 - own / (len(files) - len(known) + own)) as meter:
            for first in range(0, len(asked), together):
                stored, before = set(known), meter.own
                evaluate(policy, asked[first : first + together], held_out, known=known, draw=draw)
                new = [key for key in files if key in known and key not in stored]
                for key, share in zip(new, shares(spent_of(meter.own.less(before)), len(new)), strict=True):
                    known[key] = replace(known[key], spent=Share(**share, stage=name))
                for key in new if lab.team.first else ():
                    write_json(files[key], known[key].to_dict() | {"together": [files[e].name for e in new]})
        lab.stages.append(StageRecord(name, meter.seconds, False, meter.spent))
    evaluation = evaluate(policy, asked, held_out, known=known, draw=draw)
    release(scorers)
    lab.team.once(partial(keep_usage, lab.folder, scorers))
    return evaluation


def stored_points(files: Mapping[str, Path], shape: tuple[int, int, int]) -> dict[str, Judged]:
    """Return the points that are on disk, by what the policy computes there.

    Points that were judged in one batch count only where all of them are there: after a kill between two, the rest would be judged
    in a smaller batch, and its log-probabilities would be rounded otherwise.

    Args:
        files: What the policy computes -> file of the point.
        shape: Numbers of prompts, of samples, and of objectives.

    Raises:
        ParetuneError: A file holds no point, or one of another shape; names it.
    """
    points = {}
    for key, file in files.items():
        if file.is_file():
            point = read_json(file, StoredPoint)
            try:
                judged = Judged.from_dict(point)
                judged.check(shape)
            except ValueError as error:
                raise ParetuneError(f"{file}: not as expected ({error}); {REMAKE}") from error
            if all((file.parent / name).is_file() for name in point.get("together", [])):
                points[key] = judged
    return points


def _held_out(config: RunConfig, lab: Lab, test: ScoredDataset, scorers: Sequence[Scorer]) -> HeldOut:
    rows = _judged_rows(config, test)
    return HeldOut(
        prompts=[row.prompt for row in rows],
        ids=[row.key for row in rows],
        scorers=scorers,
        sampling=config.sampling,
        samples=config.evaluate.samples,
        seed=config.seed,
        cache=lab.score_cache,
        team=lab.team,
    )


def _judged_rows(config: RunConfig, test: ScoredDataset) -> list[Row]:
    """Return the rows that fronts are measured on; a prompt that stands twice would count twice in every interval."""
    rows = {row.key: row for row in test.rows}
    return list(rows.values())[: config.evaluate.prompts or None]


def _stated(reference: dict[str, float], objective: str) -> float:
    if objective not in reference:
        raise ConfigError(
            f"evaluate.reference_point has no value for {objective!r}; give one for every objective"
        )
    return reference[objective]


def _audited(
    config: RunConfig,
    lab: Lab,
    judgement: Judgement,
    policy: Policy,
    test: ScoredDataset,
    entry: MeasuredPolicy,
) -> MeasuredPolicy:
    """Return the entry of a policy that a cheaper one may stand in for with its distance from that one at each point."""
    other = policy.stand_in()
    if other is None:
        return entry
    evaluation = judgement.evaluations[policy.name]
    known = {row.key: row.prompt for row in _judged_rows(config, test)}
    prompts = [known[key] for key in evaluation.prompts]
    pairs = [(policy.effective(w), other.effective(w)) for w in evaluation.preferences]
    key = fingerprint(pairs, [point.responses for point in evaluation.points])

    def make(folder: Path) -> None:
        distances = audit(policy, other, evaluation.preferences, evaluation.points, prompts)
        write_json(folder / "kl.json", [values.tolist() for values in distances])

    distances = read_json(lab.stage(f"audits/{policy.name}", key, make) / "kl.json", list[list[float]])
    return with_facts(entry, {"soup_kl": tuple(mean_interval(np.array(values)) for values in distances)})
