"""A Bradley-Terry head: a linear reward on frozen sentence embeddings, fitted to the pairs of one objective.

P(chosen beats rejected) = sigmoid(w . (f(prompt, chosen) - f(prompt, rejected)))  (Bradley and Terry 1952),
where f joins two embeddings of a frozen encoder: of the pair (last user message, response) and of the response alone. The
fit is a convex problem with some hundred unknowns. It takes seconds on a CPU once the texts are embedded, and the embeddings
are kept on disk. The head comes with its accuracy on held-out pairs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize

from paretune.core.errors import DataError, ModelError
from paretune.core.files import atomic_path, cache_folder, fingerprint, read_json, write_json
from paretune.core.folder_form import FolderForm, refuse_foreign
from paretune.core.progress import progress
from paretune.core.tensor_file import check_readable, tensor_formats
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Pair, pairs
from paretune.data.rows import prompt_key
from paretune.scoring import encoder as encode
from paretune.scoring.agreement import agreement, calibration_error, wilson

if TYPE_CHECKING:
    from paretune.data.rows import Prompt

FORM = FolderForm("head.json", ("format", "text_form"), ("head.safetensors",))
"""The form of the folder of a head."""

FORMAT = 1
TEXT_FORM = "(last user message, response) as two segments; response alone"
L2_GRID = tuple(
    10.0**e for e in (-1, -1.5, -2, -2.5, -3, -3.5, -4, -5)
)  # strongest first: each fit starts from the one before
MIN_PAIRS = 10  # in each part; with fewer, neither the choice of L2 nor the held-out accuracy means anything
ENOUGH_PAIRS = 17  # expected in a part that is drawn by prompt: 19 times in 20 it then has MIN_PAIRS


@dataclass(frozen=True)
class HeadReport:
    """The numbers of pairs in a fit, and the share of held-out pairs that the head ranks correctly (a tie counts half).

    ``low`` and ``high`` bound that accuracy at 95 % (Wilson, with the number of held-out prompts as sample size, because
    pairs of one prompt are not independent). ``longer_accuracy`` is the accuracy of preferring the longer response.
    ``calibration`` is the expected calibration error on the held-out pairs. ``slope`` is the reward for a nat of length
    (:func:`log_words`), from a regression through 0 of reward gaps on gaps of length over the pairs of the fit, and
    ``without_length`` the accuracy of the reward less that. These three are None for a head of an earlier version.
    """

    objective: str
    folder: str
    encoder: str
    encoder_fingerprint: str
    train_pairs: int
    validation_pairs: int
    test_pairs: int
    test_prompts: int
    l2: float
    train_accuracy: float
    accuracy: float
    low: float
    high: float
    longer_accuracy: float
    seconds: float
    calibration: float | None = None
    slope: float | None = None
    without_length: float | None = None

    def __str__(self) -> str:
        more = (
            ""
            if self.calibration is None or self.without_length is None
            else f"; without length: {self.without_length:.1%}; calibration error {self.calibration:.3f}"
        )
        return (
            f"{self.objective}: {self.accuracy:.1%} of {self.test_pairs} held-out pairs "
            f"(95 %: {self.low:.1%} to {self.high:.1%}; longer response: {self.longer_accuracy:.1%}{more})"
        )


@dataclass(frozen=True, eq=False)
class Head:
    """A fitted head: reward = features @ weight, higher is better, with the report of its fit.

    ``prompts`` are the keys of the prompts that it was fitted on; None for a head of an earlier version, which did not keep them.
    """

    weight: np.ndarray  # [2 d] float64
    report: HeadReport
    prompts: frozenset[str] | None = None


def loss(weight: np.ndarray, differences: np.ndarray, l2: float) -> tuple[float, np.ndarray]:
    """Return mean(-logsigmoid(differences @ weight)) + l2/2 |weight|^2 and its gradient ``[D]``.

    ``differences`` ``[n, D]``: features of the chosen minus features of the rejected responses.
    """
    margin = differences @ weight
    value = float(np.logaddexp(0.0, -margin).mean()) + 0.5 * l2 * float(weight @ weight)
    gradient = -(differences.T @ _sigmoid(-margin)) / len(margin) + l2 * weight
    return value, gradient


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -x))


def minimise(
    differences: np.ndarray, l2: float, start: np.ndarray | None = None, tolerance: float = 1e-9
) -> np.ndarray:
    """Return the unique minimiser ``[D]`` of ``loss`` (strictly convex for l2 > 0); its gradient is below ``tolerance``."""
    found = minimize(
        loss,
        np.zeros(differences.shape[1]) if start is None else start.astype(np.float64),
        args=(differences, l2),
        jac=True,
        hess=_curvature,
        method="trust-exact",
        options={"gtol": tolerance},
    )
    return np.asarray(found.x)


def _curvature(weight: np.ndarray, differences: np.ndarray, l2: float) -> np.ndarray:
    p = _sigmoid(differences @ weight)
    curvature = (differences.T * (p * (1 - p))) @ differences / len(differences)
    curvature[np.diag_indices(len(weight))] += l2
    return np.asarray(curvature)


def log_words(responses: Sequence[str]) -> np.ndarray:
    """Return log(1 + number of words) of each response ``[n]``, in nats."""
    return np.log1p(np.array([len(text.split()) for text in responses], dtype=np.float64))


# Features


def features(
    encoder: encode.Frozen,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    batch_size: int = 32,
    title: str = "",
) -> np.ndarray:
    """Return ``[n, 2 d]`` float32: the embedding of (last user message, response), then that of the response alone.

    With a ``title`` the progress is shown on a terminal.
    """
    texts: list[tuple[str, str] | str] = [
        (last_user_message(p), r) for p, r in zip(prompts, responses, strict=True)
    ]
    texts += list(responses)
    unique = list(dict.fromkeys(texts))
    position = {text: i for i, text in enumerate(unique)}
    if title:
        with progress(title, len(unique)) as advance:
            rows = encode.embed(encoder, unique, batch_size, advance)
    else:
        rows = encode.embed(encoder, unique, batch_size)
    rows = rows[[position[text] for text in texts]]
    return np.concatenate([rows[: len(responses)], rows[len(responses) :]], axis=1)


def last_user_message(prompt: Prompt) -> str:
    """Return the user's last message; without a user, the last message."""
    return next((m.content for m in reversed(prompt) if m.role == "user"), prompt[-1].content)


def features_on_disk(
    name: str,
    identity: str,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    device: str | None,
    dtype: str = "auto",
) -> np.ndarray:
    """Return :func:`features`, kept on disk under the fingerprint of encoder, text form and texts."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save_file

    stated = [] if dtype == "auto" else [dtype]
    texts = [[last_user_message(p) for p in prompts], list(responses)]
    key = fingerprint(FORMAT, identity, TEXT_FORM, texts, *stated)
    file = cache_folder() / "embeddings" / f"{key}.safetensors"
    if file.is_file():
        try:
            return load_file(file)["features"]
        except (SafetensorError, KeyError, OSError) as error:
            raise ModelError(
                f"{file}: damaged embedding cache ({error}); delete the file to have it made again"
            ) from error
    encoder = encode.load_encoder(encode.locate(name), device, dtype)
    rows = features(encoder, prompts, responses, title="embedding")
    with atomic_path(file) as temporary:
        save_file({"features": np.ascontiguousarray(rows)}, temporary)
    return rows


# Fitting


def fit_head(
    dataset: ScoredDataset,
    objective: str,
    folder: str | Path,
    test: ScoredDataset | None = None,
    encoder: str = encode.DEFAULT_ENCODER,
    seed: int = 0,
    device: str | None = None,
    dtype: str = "auto",
) -> HeadReport:
    """Fit a head to all pairs of one objective, write it to ``folder``, and return its report on held-out pairs.

    Prompts are split by key: 70 % train, 15 % validation (which chooses the L2), 15 % held out. With ``test`` the held-out
    pairs come from there, and the data set is split 85/15. With the chosen L2, the head is fitted to train and validation
    together.

    Raises:
        DataError: A part has too few pairs of the objective, or a test prompt is also in the data set.
        ModelError: The encoder is not available, or ``folder`` holds anything but an earlier head.
    """
    began = time.perf_counter()
    refuse_foreign(Path(folder), FORM)
    parts = parts_of(dataset, objective, test, seed)
    source = encode.locate(encoder)
    identity = encode.content_fingerprint(source)
    every = [pair for part in parts.values() for pair in part]
    prompts = [p.prompt for p in every] * 2
    responses = [p.chosen for p in every] + [p.rejected for p in every]
    rows = features_on_disk(encoder, identity, prompts, responses, device, dtype)
    difference = rows[: len(every)].astype(np.float64) - rows[len(every) :]
    ends = np.cumsum([len(part) for part in parts.values()])
    train, validation, held_out, _ = np.split(difference, ends)

    l2, weight = _choose_l2(train, validation)
    weight = minimise(np.concatenate([train, validation]), l2, start=weight)
    test_prompts = len({prompt_key(p.prompt) for p in parts["test"]})
    fitted_on = [*parts["train"], *parts["validation"]]
    gaps, fitted = held_out @ weight, np.concatenate([train, validation]) @ weight
    longer, fitted_longer = (
        log_words([p.chosen for p in part]) - log_words([p.rejected for p in part])
        for part in (parts["test"], fitted_on)
    )
    right = agreement(gaps)
    low, high = wilson(right, test_prompts)
    size = float(fitted_longer @ fitted_longer)
    slope = float(fitted @ fitted_longer) / size if size > 0 else 0.0
    report = HeadReport(
        objective=objective,
        folder=str(folder),
        encoder=encoder,
        encoder_fingerprint=identity,
        train_pairs=len(train),
        validation_pairs=len(validation),
        test_pairs=len(held_out),
        test_prompts=test_prompts,
        l2=l2,
        train_accuracy=agreement(fitted),
        accuracy=right,
        low=low,
        high=high,
        longer_accuracy=agreement(longer),
        seconds=round(time.perf_counter() - began, 2),
        calibration=calibration_error(gaps),
        slope=slope,
        without_length=agreement(gaps - slope * longer),
    )
    save_head(Head(weight, report, frozenset(prompt_key(pair.prompt) for pair in fitted_on)), folder)
    return report


def parts_of(
    dataset: ScoredDataset, objective: str, test: ScoredDataset | None, seed: int
) -> dict[str, Sequence[Pair]]:
    """Return the pairs of the parts train, validation and test of :func:`fit_head`.

    Raises:
        DataError: A part has too few pairs of the objective, or a test prompt is also in the data set.
    """
    shares = {"train": 0.7, "validation": 0.15, "test": 0.15}
    if test is None:
        split = _split(dataset, objective, shares, seed)
    else:
        shared = {row.key for row in dataset.rows} & {row.key for row in test.rows}
        for row in test.rows:
            if row.key in shared:
                raise DataError(
                    f"{row.source or row.key}: this prompt is in the training data too, so it is not held "
                    f"out; remove the {len(shared)} shared prompts from either file, or give no test file"
                )
        split = {**_split(dataset, objective, {"train": 0.85, "validation": 0.15}, seed), "test": test}
    parts = {name: pairs(part, objective, "all") for name, part in split.items()}
    for name, part in parts.items():
        if len(part) < MIN_PAIRS:
            counts = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
            prompts = len({row.key for row in dataset.rows})
            each = sum(map(len, parts.values())) / prompts  # pairs of a prompt
            wanted = 10 * math.ceil(ENOUGH_PAIRS / min(shares.values()) / each / 10) if each else 0
            until = f", until there are about {wanted} prompts" if test is None and wanted else ""
            raise DataError(
                f"objective {objective!r}: {len(part)} {name} pairs (all parts: {counts}, of {prompts} prompts), "
                f"expected at least {MIN_PAIRS} in each part of a head's fit; add prompts with comparisons of {objective!r}"
                f"{until}"
            )
    return parts


def _split(
    dataset: ScoredDataset, objective: str, shares: dict[str, float], seed: int
) -> dict[str, ScoredDataset]:
    try:
        return dataset.split(shares, seed)
    except DataError as error:
        raise DataError(
            f"objective {objective!r}: too few prompts to fit a head, which needs at least {MIN_PAIRS} pairs, of prompts of their "
            f"own, in each part ({error})"
        ) from error


def _choose_l2(train: np.ndarray, validation: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the L2 of the grid with the lowest validation loss, and the weight fitted with it."""
    best, best_l2, best_weight = np.inf, L2_GRID[0], np.zeros(train.shape[1])
    weight = None
    for l2 in L2_GRID:
        weight = minimise(train, l2, start=weight, tolerance=1e-6)
        value, _ = loss(weight, validation, 0.0)
        if value < best:
            best, best_l2, best_weight = value, l2, weight
    return best_l2, best_weight


# Files


def save_head(head: Head, folder: str | Path) -> None:
    """Write ``head.safetensors`` and ``head.json`` (the report) into ``folder``, replacing an earlier head as a whole.

    Raises:
        ModelError: ``folder`` holds anything else.
    """
    from safetensors.numpy import save_file

    with atomic_path(folder, FORM) as temporary:
        temporary.mkdir()
        save_file({"weight": head.weight}, temporary / "head.safetensors")
        report: dict[str, Any] = {k: v for k, v in asdict(head.report).items() if k != "folder"}
        fitted_on = {} if head.prompts is None else {"fitted_on": sorted(head.prompts)}
        write_json(temporary / "head.json", {"format": FORMAT, "text_form": TEXT_FORM, **report, **fitted_on})


def load_head(folder: str | Path) -> Head:
    """Read a head that ``save_head`` wrote.

    Raises:
        ModelError: There is no head, or it is damaged, of another version, or holds other numbers than finite ones in float64.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder)
    if not (folder / "head.json").is_file():
        raise ModelError(
            f"{folder}: no Bradley-Terry head here (head.json is missing); fit one with: paretune score fit"
        )
    check_readable(folder / "head.json")
    values = read_json(folder / "head.json")
    known = isinstance(values, dict)
    if not known or values.pop("format", None) != FORMAT or values.pop("text_form", None) != TEXT_FORM:
        raise ModelError(
            f"{folder / 'head.json'}: the head has another version; fit it again with: paretune score fit"
        )
    fitted_on = values.pop("fitted_on", None)
    if fitted_on is not None and not isinstance(fitted_on, list):
        raise ModelError(
            f"{folder / 'head.json'}: fitted_on is no list; fit the head again with: paretune score fit"
        )
    file = folder / "head.safetensors"
    if (kind := tensor_formats(file).get("weight")) not in ("F64", None):
        raise ModelError(
            f"{file}: weight is in the number format {kind}, expected F64; fit it again with: paretune score fit"
        )
    try:
        weight = load_file(file)["weight"]
        if weight.ndim != 1 or not np.isfinite(weight).all():
            raise ModelError(
                f"{file}: weight {list(weight.shape)} holds numbers that are NaN or infinite, or is no vector; fit it again with: "
                "paretune score fit"
            )
        prompts = None if fitted_on is None else frozenset(map(str, fitted_on))
        return Head(weight, HeadReport(folder=str(folder), **values), prompts)
    except (SafetensorError, KeyError, TypeError, OSError) as error:
        raise ModelError(
            f"{folder}: damaged head ({error}); fit it again with: paretune score fit"
        ) from error


def load_encoder_of(head: Head, device: str | None = None, dtype: str = "auto") -> encode.Frozen:
    """Load the encoder that a head was fitted on.

    Raises:
        ModelError: The encoder is not available, or its weights are not those of the fit.
    """
    source = encode.locate(head.report.encoder)
    content = encode.content_fingerprint(source)
    if content != head.report.encoder_fingerprint:
        raise ModelError(
            f"{source}: fingerprint {content}, but the head in {head.report.folder} was fitted on "
            f"{head.report.encoder_fingerprint}; restore that encoder, or fit the head again"
        )
    return encode.load_encoder(source, device, dtype)
