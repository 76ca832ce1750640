"""The first stage of a run: load, sample, split and score the data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.errors import ConfigError, DataError, NoteWarning
from paretune.core.files import fingerprint, write_json
from paretune.core.progress import stage
from paretune.data.dataset import ScoredDataset, concatenate
from paretune.data.load import load_data
from paretune.data.row_store import taken
from paretune.generation.sample import sample_dataset, sample_remotely
from paretune.models.devices import present
from paretune.models.distributed import check_processes
from paretune.models.language_model import computing
from paretune.models.packed_attention.backends import capability_of, choose
from paretune.runs.checks import check_config
from paretune.runs.config import RunConfig
from paretune.runs.fitted_heads import check_encoder, check_fit, fitted_head, speaks
from paretune.runs.names import check_objectives
from paretune.runs.principles import judge_of
from paretune.runs.scorer_usage import keep_usage, usage_lines
from paretune.runs.scores import scorer_cautions, scorer_facts
from paretune.scoring.function_scorer import FunctionScorer
from paretune.scoring.pair_labels import label_dataset
from paretune.scoring.ranked_labels import rank_dataset
from paretune.scoring.scorer import Scorer, build_scorer, release, score_dataset
from paretune.scoring.standardise import Standardisation
from paretune.training.lab import Lab
from paretune.training.prompt_cuts import cut_at_start
from paretune.training.remote_stages import identity


@dataclass(frozen=True)
class Sources:
    """What a run begins with.

    Attributes:
        splits: Data as they were read: train, validation, test.
        scorers: Scorers in the order of ``score``, None where one is still to be fitted.
        objectives: Names of the run's objectives, in order.
    """

    splits: dict[str, ScoredDataset]
    scorers: tuple[Scorer | None, ...]
    objectives: tuple[str, ...]


def read_sources(config: RunConfig) -> Sources:
    """Read the data and make the scorers, before any model is loaded; check what the run needs of them.

    Raises:
        DataError, ConfigError, ModelError: Data that cannot be read or are too few, a scorer that cannot be.
    """
    check_config(config)
    present(config.device)
    check_processes(config.processes)
    choose(config.attention, capability_of(*computing(config.dtype, config.device)))
    if not config.score:
        raise ConfigError(
            "score: is empty; name a scorer for each objective, by which the held-out answers are judged"
        )
    scorers = tuple(
        None if spec.get("head") == "fit" else build_scorer(spec, config.device) for spec in config.score
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoteWarning)  # prepare_data says the notes
        splits = load_splits(config)
    objectives = check_splits(config, splits)
    check_encoder(config)
    return Sources(splits, scorers, objectives)


def check_splits(config: RunConfig, splits: dict[str, ScoredDataset]) -> tuple[str, ...]:
    """Return the names of the objectives of a run on these data, after a check of what it needs of them.

    Raises:
        DataError: Data that are too few, or rows without a response.
        ConfigError: Objectives or preferences that cannot be.
    """
    for name in ("train", "validation"):
        check_responses(config, splits[name])
    check_fit(config, splits)
    prompts = len({row.key for row in splits["test"].rows})
    if prompts < 2:
        raise DataError(
            f"{splits['test'].rows[0].source or 'the data'}: {prompts} held-out prompt; expected at least 2, as one gives no "
            "interval; add data, or give data.splits.test a larger share"
        )
    objectives = _objectives(config, splits)
    config.grid(objectives)
    config.fine_grid(objectives)
    return tuple(objectives)


def prepare_data(
    config: RunConfig, lab: Lab, sources: Sources | None = None
) -> tuple[dict[str, ScoredDataset], list[Scorer]]:
    """Sample, split and score the data; return the splits (train, validation, test) and the scorers.

    Args:
        config, lab: Settings and lab of the run.
        sources: Result of :func:`read_sources`; by default they are read here.

    Raises:
        DataError, ConfigError, ScoreError: See the stages.
    """
    sources = sources or read_sources(config)
    parts = sources.splits
    for note in dict.fromkeys(note for part in parts.values() for note in (*part.notes, *_uses(part))):
        lab.leave_out(note)
    splits = {name: _with_room(part, config, lab, name) for name, part in parts.items()}
    for name in ("train", "validation"):
        splits[name] = _with_responses(splits[name], config, lab, name)
    splits |= _with_judged_labels(splits, config, lab)
    scorers = _scorers(config, sources, lab, splits)
    keys = {row.key for row in splits["test"].rows}
    for caution in scorer_cautions({scorer.objective: scorer_facts(scorer, keys) for scorer in scorers}):
        lab.say(caution)
    objectives = sources.objectives
    with stage("score"):
        for name in ("train", "validation"):
            silent = [
                s for s in scorers if s.objective in objectives and not speaks(splits[name], s.objective)
            ]
            splits[name] = lab.team.once(partial(_scored, splits[name], silent, lab))
    release(scorers)
    for name, part in splits.items():
        kept = [objective for objective in objectives if objective in part.objectives]
        splits[name] = part.select(kept) if name != "test" else part
        if lab.team.first:
            splits[name].write(lab.folder / "data" / f"{name}.jsonl.gz")
    missing = [objective for objective in objectives if objective not in splits["train"].objectives]
    if missing:
        raise DataError(
            f"the training data have neither labels nor scores of the objective {missing[0]!r}; add a scorer for it under score:"
        )
    if lab.team.first and (scored := _fully_scored(splits["train"])):
        write_json(
            lab.folder / "scores" / "standardisation.json",
            Standardisation.of(splits["train"].select(scored)).to_dict(),
        )
    return splits, scorers


def _scored(dataset: ScoredDataset, scorers: Sequence[Scorer], lab: Lab) -> ScoredDataset:
    """Return the data with scores, or with labels by scorers that compare pairs; rows that are left out are said.

    Raises:
        ScoreError, EndpointError: A scorer failed; what it asked until then is counted.
        DataError: No row is left.
    """
    comparing = [s for s in scorers if isinstance(s, FunctionScorer) and s.comparing is not None]
    try:
        dataset = score_dataset(
            dataset, [s for s in scorers if s not in comparing], lab.score_cache, leave_out=True
        )
        for scorer in comparing:
            dataset = _labelled(dataset, scorer, lab)
    finally:
        for line in usage_lines(scorers, keep_usage(lab.folder, scorers)):
            lab.say(line)
    return _with_all_scores(dataset, [s.objective for s in scorers if s not in comparing], lab)


def _labelled(dataset: ScoredDataset, scorer: FunctionScorer, lab: Lab) -> ScoredDataset:
    """Return the data with the labels of a scorer that compares pairs or ranks; what has none is said."""
    if scorer.comparing is not None and scorer.comparing.sort is not None:
        dataset, report = rank_dataset(dataset, scorer)
        lab.say(f"{scorer.objective}: {report}")
        if report.unsaid:
            lab.leave_out(f"{report.unsaid} prompts got no ranking for {scorer.objective} and have no label")
        return dataset
    dataset, missing = label_dataset(dataset, scorer)
    if missing:
        lab.leave_out(f"{missing} pairs got no verdict for {scorer.objective} and have no label")
    return dataset


def _with_all_scores(dataset: ScoredDataset, objectives: Sequence[str], lab: Lab) -> ScoredDataset:
    """Return the rows all of whose responses were scored: a scorer may leave out what has no score."""
    kept = [
        n
        for n, row in enumerate(dataset.rows)
        if not any(np.isnan(row.scores.get(o, (np.nan,) * len(row.responses))).any() for o in objectives)
    ]
    gone = len(dataset.rows) - len(kept)
    if not gone:
        return dataset
    if not kept:
        raise DataError(f"none of {gone} rows has scores of all its responses; see which scorer fails")
    lab.leave_out(f"{gone} of {len(dataset.rows)} rows have a response that got no score, and were left out")
    return replace(dataset, rows=taken(dataset.rows, np.array(kept, dtype=np.int64)))


def _uses(part: ScoredDataset) -> tuple[str, ...]:
    """Say what the weights and margins of rows are used for, where there are any."""
    stated = sum(row.weight != 1 or row.margin != 0 for row in part.rows)
    if not stated:
        return ()
    return (
        f"{stated} of {len(part.rows)} rows have a weight or a margin; losses of pairs use them, and methods that train on single "
        "responses do not",
    )


def load_splits(
    config: RunConfig, load: Callable[..., ScoredDataset] = load_data
) -> dict[str, ScoredDataset]:
    """Load the sources and split them by prompt; ``notes`` of the parts say what was left out.

    Rows of a held-out prompt are no training data, where the held-out prompts have a source of their own. ``load`` reads a source,
    as :func:`load_data` does.

    Raises:
        DataError: See :func:`load_data`; or all prompts of the source are held out.
    """

    def source(spec: Any, split: str | None) -> ScoredDataset:
        if isinstance(spec, list) and spec:
            return concatenate([source(entry, split) for entry in spec])
        return load(spec, split, path=config.data.path)

    dataset = source(config.data.source, config.data.split)
    if config.data.limit and len(dataset.rows) > config.data.limit:
        note = f"data.limit: the first {config.data.limit} of {len(dataset.rows)} rows are used"
        dataset = replace(dataset, rows=dataset.rows[: config.data.limit], notes=(*dataset.notes, note))
    fractions = dict(config.data.splits)
    test: ScoredDataset | None = None
    if config.data.test is not None:
        fractions.pop("test", None)
        test = source(config.data.test, None)
        dataset = _without(dataset, test)
    parts = dataset.split(fractions, config.seed)
    unused = len(dataset.rows) - sum(len(part.rows) for part in parts.values())
    if unused:
        shares = ", ".join(f"{name} {share:g}" for name, share in fractions.items())
        note = f"{unused} of {len(dataset.rows)} rows are in no part: data.splits gives {shares}"
        parts = {name: replace(part, notes=(*part.notes, note)) for name, part in parts.items()}
    return parts if test is None else {**parts, "test": test}


def _without(dataset: ScoredDataset, test: ScoredDataset) -> ScoredDataset:
    """Return the data without the rows of the prompts of ``test``."""
    held_out = {row.key for row in test.rows}
    places = np.array([n for n, row in enumerate(dataset.rows) if row.key not in held_out], dtype=np.int64)
    common = len(dataset.rows) - len(places)
    if not common:
        return dataset
    if not len(places):
        raise DataError(
            f"data.test: all {common} rows of data.source are of held-out prompts, so none is left to train on; name other data, "
            "or leave data.test out to hold a share of data.source out"
        )
    note = f"{common} of {len(dataset.rows)} rows of data.source are of held-out prompts (data.test) and are not trained on"
    return replace(dataset, rows=taken(dataset.rows, places), notes=(*dataset.notes, note))


def check_responses(config: RunConfig, dataset: ScoredDataset) -> None:
    """Raise a DataError where rows have no response, something is to be trained, and ``data.sample`` does not ask for some."""
    bare = [row for row in dataset.rows if not row.responses]
    if bare and not config.data.sample and not config.untrained:
        raise DataError(
            f"{bare[0].source or 'the data'}: {len(bare)} of {len(dataset.rows)} rows have no response; set data.sample to draw "
            "some from the base model, for example data.sample=4"
        )


def _with_room(dataset: ScoredDataset, config: RunConfig, lab: Lab, split: str) -> ScoredDataset:
    """Return the rows whose prompts leave the model positions for an answer, where one is to be sampled (``data.too_long``).

    Raises:
        DataError: A prompt leaves too few and ``data.too_long`` is ``refuse``, or no row is left.
    """
    positions, new, rule = lab.lm.context, config.sampling.max_new_tokens, config.data.too_long
    asked = [n for n, row in enumerate(dataset.rows) if split == "test" or not row.responses]
    if positions is None or not asked:
        return dataset
    rows = ((n, dataset.rows[n]) for n in asked)
    lengths = {n: len(lab.lm.encode_prompt(row.prompt, row.source)) for n, row in rows}
    short = [n for n in asked if lengths[n] + new > positions]
    if not short:
        return dataset
    cut = {}
    if rule == "prompt-left":
        ends = {n: cut_at_start(lab.lm, dataset.rows[n].prompt, positions - new) for n in short}
        cut = {n: replace(dataset.rows[n], prompt=end) for n, end in ends.items() if end is not None}
    gone = {n for n in short if n not in cut and (rule != "cut" or lengths[n] >= positions)}
    first, what = (
        dataset.rows[short[0]],
        f"leave fewer than sampling.max_new_tokens={new} of the model's {positions} positions",
    )
    where = f"{first.source or f'row {short[0]}'}: {lengths[short[0]]} tokens"
    cure = (
        "lower sampling.max_new_tokens, shorten the prompts, or set data.too_long to drop, cut or prompt-left"
    )
    if rule == "refuse" or len(gone) == len(dataset.rows):
        raise DataError(f"{where}; {len(short)} of {len(asked)} prompts ({split}) {what}: {cure}")
    left = f"{len(gone)} were left out" + (
        f", {len(short) - len(gone)} answers end at the last position" if rule == "cut" else ""
    )
    left += f", {len(cut)} were cut at their beginning" if rule == "prompt-left" else ""
    lab.leave_out(f"{len(short)} of {len(asked)} prompts ({split}) {what}: {left}")
    if not gone and not cut:
        return dataset
    kept = tuple(cut.get(n, row) for n, row in enumerate(dataset.rows) if n not in gone)
    return replace(dataset, rows=kept)


def _with_responses(dataset: ScoredDataset, config: RunConfig, lab: Lab, split: str) -> ScoredDataset:
    """Draw responses from the base model for the rows that have none."""
    bare = [row for row in dataset.rows if not row.responses]
    if not bare or not config.data.sample:
        return dataset

    def make(folder: Path) -> None:
        parts, asked = lab.folder / "cache" / "samples", replace(dataset, rows=tuple(bare))
        how = (config.data.sample, config.sampling, config.seed, parts)
        if config.server is None:
            sampled = sample_dataset(lab.lm, asked, *how)
        else:
            remotely = partial(sample_remotely, config.server, asked, *how)
            # Where the weights are divided all are here, and one asks; else the first is here alone.
            sampled, _ = lab.team.once(remotely) if lab.team.sharded else remotely()
        drawn = iter(sampled.rows)
        rows = tuple(row if row.responses else next(drawn) for row in dataset.rows)
        replace(dataset, rows=rows).write(folder / "sampled.jsonl.gz")

    who = lab.lm.fingerprint if config.server is None else identity(config.server)[0]
    key = fingerprint(dataset.fingerprint, who, config.data.sample, config.sampling.identity(), config.seed)
    return ScoredDataset.read(lab.stage(f"samples/{split}", key, make) / "sampled.jsonl.gz")


def label_judges(config: RunConfig) -> list[FunctionScorer]:
    """Return the judges whose labels heads are fitted to; none has asked anything yet."""
    judges = [judge_of(spec) for spec in config.score if "labels" in spec]
    return [build_scorer(judge, config.device) for judge in judges if judge is not None]


def _with_judged_labels(
    splits: dict[str, ScoredDataset], config: RunConfig, lab: Lab
) -> dict[str, ScoredDataset]:
    """Return the training data with the labels of judges, from which heads are fitted; where the data have labels, these stay."""
    judges = label_judges(config)
    if not judges:
        return {}
    found = {}
    with stage("labels"):
        for name in ("train", "validation"):
            silent = [judge for judge in judges if not speaks(splits[name], judge.objective)]
            found[name] = lab.team.once(partial(_scored, splits[name], silent, lab))
    release(judges)
    return found


def _scorers(config: RunConfig, sources: Sources, lab: Lab, splits: dict[str, ScoredDataset]) -> list[Scorer]:
    """Return all scorers; ``head: fit`` fits a Bradley-Terry head on the training labels of its objective."""
    scorers: list[Scorer] = []
    for spec, scorer in zip(config.score, sources.scorers, strict=True):
        head = None if scorer else str(fitted_head(spec, config, lab, splits))
        fitted = {key: value for key, value in spec.items() if key != "labels"}
        scorers.append(scorer or build_scorer({**fitted, "head": head}, config.device))
    return scorers


def _objectives(config: RunConfig, splits: dict[str, ScoredDataset]) -> list[str]:
    """Return the names of the run's objectives in order; each needs a scorer, or the front could not be measured."""
    scored = [str(spec.get("objective")) for spec in config.score]
    names = list(config.objectives) or list(dict.fromkeys([*splits["train"].objectives, *scored]))
    check_objectives(names)
    if len(names) < 2:
        raise ConfigError(
            f"a front needs at least two objectives, got {names}; add scorers under score:, or data with labels"
        )
    for name in names:
        if name not in scored:
            raise ConfigError(
                f"no scorer for the objective {name!r}; add one under score: (it judges the held-out answers)"
            )
    return names


def _fully_scored(dataset: ScoredDataset) -> list[str]:
    if not any(row.responses for row in dataset.rows):
        return []
    return [name for name in dataset.objectives if all(name in row.scores for row in dataset.rows)]
