"""Prototypes of taste over frozen sentence embeddings, as values: objectives that were found in people's votes rather than named.

The mathematics is in :mod:`paretune.scoring.ideal_points`, the fit in :mod:`paretune.scoring.prototype_fit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.errors import DataError, ModelError
from paretune.core.files import atomic_path, fingerprint, read_json, write_json
from paretune.core.folder_form import FolderForm
from paretune.core.preference import Preference
from paretune.core.tensor_file import check_readable
from paretune.data.person_votes import PersonVote
from paretune.data.rows import Prompt
from paretune.scoring import bradley_terry as bt
from paretune.scoring import encoder as encode
from paretune.scoring.ideal_points import Ballots, PALForm, fit_user, scores

FILES = ("prototypes.json", "prototypes.safetensors")
FORM = FolderForm(FILES[0], ("format", "form", "names"), FILES)
"""The form of the folder of prototypes."""
FORMAT = 1


@dataclass(frozen=True)
class PrototypeReport:
    """What a fit predicts of held-out votes; shares of votes on held-out prompts, a tie of the model counting half.

    Attributes:
        votes, ties, users, prompts: What it was given.
        unseen_users: People who were held out as new ones.
        accuracy, low, high: Of seen people's votes, with the 95 % interval (Wilson; held-out prompts are the sample).
        one_taste: Of the same votes by one prototype for all.
        new_users: Number of votes of a new person -> the accuracy of their other votes, over those with so many.
        test_votes: Seen people's votes on held-out prompts.
        l2: Strength of regularisation that was chosen.
        seconds: Time of the fit.
    """

    votes: int
    ties: int
    users: int
    prompts: int
    unseen_users: int
    test_votes: int
    accuracy: float
    low: float
    high: float
    one_taste: float
    new_users: dict[str, float]
    l2: float
    seconds: float

    def __str__(self) -> str:
        new = ", ".join(f"{share:.1%} after {count}" for count, share in self.new_users.items())
        return (
            f"{self.accuracy:.1%} of {self.test_votes} held-out votes (95 %: {self.low:.1%} to {self.high:.1%}; one taste for all: "
            f"{self.one_taste:.1%})"
        ) + (f"; of {self.unseen_users} new people: {new} of their votes" if new else "")


@dataclass(frozen=True, eq=False)
class Prototypes:
    """K prototypes with the weights of the people whom they were learned from.

    Attributes:
        form: The form of the model.
        parameters: Its parameters, with mean and size of features (``items.mean``, ``items.size``, and of ``prompts``) and the
            mean ``logits`` of people.
        names: The name of each prototype, K.
        users: Person -> weights ``[K]`` on the simplex.
        encoder, encoder_fingerprint: The encoder of the features.
        report: What the fit predicts.
    """

    form: PALForm
    parameters: dict[str, np.ndarray]
    names: tuple[str, ...]
    users: dict[str, tuple[float, ...]]
    encoder: str
    encoder_fingerprint: str
    report: PrototypeReport

    @property
    def fingerprint(self) -> str:
        """Identifies what scores depend on."""
        raw = [self.parameters[name].tobytes() for name in sorted(self.parameters)]
        return fingerprint(asdict(self.form), self.encoder_fingerprint, *raw)

    def named(self, names: Sequence[str]) -> Prototypes:
        """Return the same prototypes under other names.

        Raises:
            PreferenceError: A name is none that an objective can have, or stands twice.
            DataError: The number of names is not that of prototypes.
        """
        if len(names) != self.form.prototypes:
            raise DataError(
                f"{len(names)} names for {self.form.prototypes} prototypes; give one for each, in their order"
            )
        return replace(self, names=Preference.uniform(tuple(names)).objectives)

    def number(self, name: str) -> int:
        """Return the number of a prototype.

        Raises:
            ModelError: There is none of this name.
        """
        if name not in self.names:
            raise ModelError(f"no prototype is named {name!r}; there are {', '.join(self.names)}")
        return self.names.index(name)

    def preference(self, weights: Sequence[float]) -> Preference:
        """Return weights ``[K]`` as a preference over the prototypes."""
        return Preference.of(dict(zip(self.names, map(float, weights), strict=True)), self.names)

    def features(
        self, frozen: encode.Frozen, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> np.ndarray:
        """Return what :meth:`scores` reads: the features ``[n, D]`` of responses, for model B with those of prompts behind them."""
        return features_of(self.form, frozen, prompts, responses)

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return how near responses are to each prototype ``[n, K]``, higher is nearer; see :meth:`features`."""
        items, prompts = _parts(self.form, features)
        if items.shape[1] != len(self.parameters["items.mean"]):
            raise ModelError(
                f"prototypes for {len(self.parameters['items.mean'])} features, but the encoder gives {items.shape[1]}; fit them "
                "again with: paretune pal fit"
            )
        return scores(self.form, self.parameters, *scaled(self.parameters, items, prompts))

    def save(self, folder: str | Path) -> None:
        """Write ``prototypes.json`` and ``prototypes.safetensors`` into ``folder``, replacing earlier prototypes as a whole.

        Raises:
            ModelError: ``folder`` holds anything else.
        """
        from safetensors.numpy import save_file

        with atomic_path(folder, FORM) as temporary:
            temporary.mkdir()
            save_file(
                {name: np.ascontiguousarray(x) for name, x in self.parameters.items()}, temporary / FILES[1]
            )
            facts = {
                "format": FORMAT,
                "text_form": bt.TEXT_FORM,
                "form": asdict(self.form),
                "names": list(self.names),
                "encoder": self.encoder,
                "encoder_fingerprint": self.encoder_fingerprint,
                "fingerprint": self.fingerprint,
                "users": {name: list(weights) for name, weights in self.users.items()},
                "report": asdict(self.report),
            }
            write_json(temporary / FILES[0], facts)

    @classmethod
    def load(cls, folder: str | Path) -> Prototypes:
        """Read what :meth:`save` wrote.

        Raises:
            ModelError: There are no prototypes, or they are damaged or of another version.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = Path(folder)
        check_readable(folder / FILES[0], "fit prototypes with: paretune pal fit VOTES FOLDER")
        facts = read_json(folder / FILES[0], dict[str, Any])
        if facts.get("format") != FORMAT or facts.get("text_form") != bt.TEXT_FORM:
            raise ModelError(
                f"{folder / FILES[0]}: prototypes of another version; fit them again with: paretune pal fit"
            )
        check_readable(folder / FILES[1])
        try:
            made = cls(
                PALForm(**facts["form"]),
                load_file(folder / FILES[1]),
                tuple(map(str, facts["names"])),
                {str(name): tuple(map(float, weights)) for name, weights in facts["users"].items()},
                str(facts["encoder"]),
                str(facts["encoder_fingerprint"]),
                PrototypeReport(**facts["report"]),
            )
        except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            raise ModelError(
                f"{folder}: damaged prototypes ({error}); fit them again with: paretune pal fit"
            ) from error
        if made.fingerprint != facts.get("fingerprint") or len(made.names) != made.form.prototypes:
            raise ModelError(
                f"{folder}: the numbers are not those that were saved (the disk or a copy changed them); copy the folder again, or "
                "fit the prototypes again"
            )
        return made

    def load_encoder(self, device: str | None = None, dtype: str = "auto") -> encode.Frozen:
        """Load the encoder of the fit.

        Raises:
            ModelError: It is not available, or has other weights.
        """
        source = encode.locate(self.encoder)
        if (content := encode.content_fingerprint(source)) != self.encoder_fingerprint:
            raise ModelError(
                f"{source}: fingerprint {content}, but the prototypes were fitted on {self.encoder_fingerprint}; restore that "
                "encoder, or fit them again"
            )
        return encode.load_encoder(source, device, dtype)


# Features


def features_of(
    form: PALForm, frozen: encode.Frozen, prompts: Sequence[Prompt], responses: Sequence[str], title: str = ""
) -> np.ndarray:
    """Return the features that a model of a form reads, see :meth:`Prototypes.features`; a ``title`` shows the progress."""
    rows = bt.features(frozen, prompts, responses, title=title)
    if form.model == "A":
        return rows
    # Model B embeds the response alone, which is the second half, and the prompt alone.
    texts = [bt.last_user_message(prompt) for prompt in prompts]
    distinct = list(dict.fromkeys(texts))
    embedded = encode.embed(frozen, distinct)
    places = {text: place for place, text in enumerate(distinct)}
    return np.concatenate([rows[:, rows.shape[1] // 2 :], embedded[[places[text] for text in texts]]], axis=1)


def _parts(form: PALForm, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of responses and those of prompts; of model A the latter are empty."""
    read = features.astype(np.float64)
    half = read.shape[1] // 2
    return (read, read[:, :0]) if form.model == "A" else (read[:, :half], read[:, half:])


def scaled(parameters: dict[str, np.ndarray], *parts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return features of responses and of prompts, less their mean and over their size."""
    names = ("items", "prompts")
    return tuple(
        (part - parameters[f"{name}.mean"]) / parameters[f"{name}.size"]
        for name, part in zip(names, parts, strict=True)
    )


def ballots_of(form: PALForm, features: np.ndarray, users: np.ndarray, signs: np.ndarray) -> Ballots:
    """Return V votes as arrays from the features ``[2 V, ...]`` of all first and then all second responses."""
    items, prompts = _parts(form, features)
    half = len(users)
    return Ballots(items[:half], items[half:], prompts[:half], users, signs)


def scaled_ballots(scale: dict[str, np.ndarray], ballots: Ballots) -> Ballots:
    """Return votes with their features less their mean and over their size."""
    first, prompts = scaled(scale, ballots.first, ballots.prompts)
    second, _ = scaled(scale, ballots.second, ballots.prompts)
    return replace(ballots, first=first, second=second, prompts=prompts)


def simplex(logits: np.ndarray) -> np.ndarray:
    """Return the weights ``[..., K]`` of logits."""
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


# Use


def taste(
    prototypes: Prototypes, votes: Sequence[PersonVote], device: str | None = None, dtype: str = "auto"
) -> Preference:
    """Return a person's weights from their votes alone, as a preference over the prototypes; see :func:`fit_user`."""
    ballots = _ballots(prototypes, votes, device, dtype)
    logits = fit_user(prototypes.form, prototypes.parameters, ballots, prototypes.parameters["logits"])
    return prototypes.preference(simplex(logits).tolist())


def _ballots(prototypes: Prototypes, votes: Sequence[PersonVote], device: str | None, dtype: str) -> Ballots:
    """Return votes as arrays of one user, scaled."""
    rows = prototypes.features(
        prototypes.load_encoder(device, dtype),
        [vote.prompt for vote in votes] * 2,
        [vote.first for vote in votes] + [vote.second for vote in votes],
    )
    signs = np.array([vote.sign for vote in votes])
    ballots = ballots_of(prototypes.form, rows, np.zeros(len(votes), dtype=np.int64), signs)
    return scaled_ballots(prototypes.parameters, ballots)


@dataclass(frozen=True)
class Example:
    """Two responses of which a prototype prefers one more than the other prototypes do.

    Attributes:
        prompt: The last message of the prompt.
        preferred, other: The two responses.
        lead: How much more it prefers the one, in deviations over all votes.
    """

    prompt: str
    preferred: str
    other: str
    lead: float


def extremes(
    prototypes: Prototypes,
    votes: Sequence[PersonVote],
    count: int = 3,
    device: str | None = None,
    dtype: str = "auto",
) -> dict[str, list[Example]]:
    """Return for each prototype the pairs on which it differs most from the other prototypes, by which it can be named."""
    K = prototypes.form.prototypes
    ballots = _ballots(prototypes, votes, device, dtype)
    leads = scores(prototypes.form, prototypes.parameters, ballots.first, ballots.prompts)
    leads = leads - scores(prototypes.form, prototypes.parameters, ballots.second, ballots.prompts)
    leads = leads / np.maximum(leads.std(0), 1e-12)
    if K > 1:
        leads = leads - (leads.sum(1, keepdims=True) - leads) / (K - 1)
    found: dict[str, list[Example]] = {}
    for number, name in enumerate(prototypes.names):
        shown: dict[tuple[str, str], Example] = {}
        for row in np.argsort(-np.abs(leads[:, number]), kind="stable"):
            vote, lead = votes[int(row)], float(leads[row, number])
            one, other = (vote.first, vote.second) if lead > 0 else (vote.second, vote.first)
            shown.setdefault((one, other), Example(bt.last_user_message(vote.prompt), one, other, abs(lead)))
            if len(shown) == count:
                break
        found[name] = list(shown.values())
    return found
