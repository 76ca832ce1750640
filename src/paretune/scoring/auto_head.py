"""A head that chooses a preference for each prompt, in a folder: with its encoder, its policy, and what it was shown to do.

The mathematics is in :mod:`paretune.choosing.auto`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from paretune.choosing.auto import Head
from paretune.core.errors import ConfigError, ModelError
from paretune.core.files import atomic_path, fingerprint, read_json, write_json
from paretune.core.folder_form import FolderForm
from paretune.core.preference import Preference
from paretune.core.tensor_file import check_readable
from paretune.scoring import encoder as encode

AUTO = "auto"
"""What a request asks for in place of a preference."""
FILES = ("auto.json", "auto.safetensors", "README.md")
FORM = FolderForm(FILES[0], ("format", "objectives", "policy"), FILES)
"""The form of the folder of a head."""
FORMAT = 1
CURE = "fit it again with: paretune auto fit"
ARRAYS = ("centre", "directions", "slopes", "logits", "constant")
LONGEST = 8_000
"""Characters of a message that are read at most; an encoder reads the first few hundred tokens of it."""


@dataclass(frozen=True)
class AutoReport:
    """What a head was learned from, and what it predicts of prompts that it was not fitted to.

    Attributes:
        kind: ``votes`` or ``labels``.
        rows, prompts: Their number, and that of different prompts.
        ties: Votes that are ties.
        own_scores: Votes with the answers' own scores; the others have those that the front expects.
        left_out: Reason -> number of votes that were left out.
        gain, low, high: Nats a row by which the head predicts better than the constant preference, with the 95 % interval.
        hits, constant_hits: Of votes, the share that is predicted; of labels, the share of weight that stands where it is wanted.
        better: Whether the interval lies above 0.
        p_value, enough_prompts, detectable: Of the same test; see `paretune.fronts.inference.Comparison`, in nats.
        spread, noise, components: What the fit chose, see `paretune.choosing.auto.Head`.
        seconds: Time of the fit.
    """

    kind: Literal["votes", "labels"]
    rows: int
    prompts: int
    ties: int
    own_scores: int
    gain: float
    low: float
    high: float
    hits: float
    constant_hits: float
    better: bool
    p_value: float
    enough_prompts: int | None
    detectable: float
    spread: float
    noise: float
    components: int
    seconds: float
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        of = "votes predicted" if self.kind == "votes" else "weight where it is wanted"
        seen = (
            f"{self.hits:.1%} of {of} on held-out prompts, {self.constant_hits:.1%} by the constant preference; gain "
            f"{self.gain:.3f} nats [{self.low:.3f}, {self.high:.3f}] over {self.prompts} prompts"
        )
        if self.better:
            return f"better than the constant preference: {seen}"
        enough = self.enough_prompts
        needed = (
            f"; about {float(f'{enough:.2g}'):,.0f} prompts would show a gain as small as this"
            if enough is not None and self.gain > 0
            else ""
        )
        return f"not shown to be better than the constant preference: {seen}{needed}"


@dataclass(frozen=True, eq=False)
class AutoHead:
    """A head with what it belongs to.

    Attributes:
        head: The head.
        policy: Name of the policy whose preferences it chooses.
        encoder, encoder_fingerprint: The encoder of prompts.
        report: What it was shown to do.
    """

    head: Head
    policy: str
    encoder: str
    encoder_fingerprint: str
    report: AutoReport

    @property
    def objectives(self) -> tuple[str, ...]:
        """M names."""
        return self.head.objectives

    @property
    def constant(self) -> Preference:
        """The preference for all prompts that the same data give."""
        return self.head.constant_preference

    @property
    def fingerprint(self) -> str:
        """Identifies what the head chooses."""
        raw = [np.ascontiguousarray(getattr(self.head, name)).tobytes() for name in ARRAYS]
        return fingerprint(list(self.objectives), self.policy, self.encoder_fingerprint, *raw)

    def preferences(self, frozen: encode.Frozen, texts: Sequence[str]) -> list[Preference]:
        """Return the preference for each message of a user."""
        return self.head.preferences(embedded(frozen, texts))

    def check_for(self, policy: str, objectives: Sequence[str]) -> None:
        """Check that the head was fitted for a policy.

        Raises:
            ConfigError: It is for another one, or for other objectives.
        """
        if policy != self.policy:
            raise ConfigError(
                f"the head of auto was fitted for {self.policy!r}, not for {policy!r}: votes on the answers of one policy say "
                f"nothing about another's; fit one with: paretune auto fit RUN FOLDER --policy {policy}"
            )
        if set(objectives) != set(self.objectives):
            raise ConfigError(
                f"the head of auto has the objectives {', '.join(self.objectives)}, and {policy} {', '.join(objectives)}; {CURE}"
            )

    def load_encoder(self, device: str | None = None, dtype: str = "auto") -> encode.Frozen:
        """Load the encoder of the fit.

        Raises:
            ModelError: It is not available, or has other weights.
        """
        return encode.load_encoder(self.checked_encoder(), device, dtype)

    def checked_encoder(self) -> Path:
        """Return the folder of the encoder of the fit.

        Raises:
            ModelError: It is not available, or has other weights.
        """
        source = encode.locate(self.encoder)
        if (content := encode.content_fingerprint(source)) != self.encoder_fingerprint:
            raise ModelError(
                f"{source}: fingerprint {content}, but the head of auto was fitted on the embeddings of "
                f"{self.encoder_fingerprint}; restore that encoder, or {CURE}"
            )
        return source

    def save(self, folder: str | Path) -> None:
        """Write the head with its card; ``folder`` becomes exactly this.

        Raises:
            ModelError: ``folder`` holds anything else.
        """
        from safetensors.numpy import save_file

        with atomic_path(folder, FORM) as temporary:
            temporary.mkdir()
            arrays = {name: np.ascontiguousarray(getattr(self.head, name)) for name in ARRAYS}
            save_file(arrays, temporary / FILES[1])
            facts = {
                "format": FORMAT,
                "objectives": list(self.objectives),
                "policy": self.policy,
                "noise": self.head.noise,
                "spread": self.head.spread,
                "encoder": self.encoder,
                "encoder_fingerprint": self.encoder_fingerprint,
                "fingerprint": self.fingerprint,
                "report": asdict(self.report),
            }
            write_json(temporary / FILES[0], facts)
            (temporary / FILES[2]).write_text(self.card(), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> AutoHead:
        """Read what :meth:`save` wrote.

        Raises:
            ModelError: There is no head, or it is damaged or of another version.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = Path(folder)
        check_readable(folder / FILES[0], f"expected the folder of a head of auto; {CURE}")
        facts = read_json(folder / FILES[0], dict[str, Any])
        if facts.get("format") != FORMAT:
            raise ModelError(f"{folder / FILES[0]}: a head of auto of another version; {CURE}")
        check_readable(folder / FILES[1])
        try:
            names = Preference.uniform(tuple(map(str, facts["objectives"]))).objectives
            read = load_file(folder / FILES[1])
            arrays = {name: read[name] for name in ARRAYS}
            head = Head(names, **arrays, noise=float(facts["noise"]), spread=float(facts["spread"]))
            report = AutoReport(**facts["report"])
            made = cls(
                head, str(facts["policy"]), str(facts["encoder"]), str(facts["encoder_fingerprint"]), report
            )
        except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            raise ModelError(f"{folder}: damaged head of auto ({error}); {CURE}") from error
        if made.fingerprint != facts.get("fingerprint"):
            raise ModelError(
                f"{folder}: the numbers are not those that were saved (the disk or a copy changed them); copy the folder again, or "
                f"{CURE}"
            )
        return made

    def card(self) -> str:
        """Return what a person should know of the head, as Markdown."""
        report = self.report
        weights = "\n".join(f"| {name} | {self.constant[name]:.3f} |" for name in self.objectives)
        left_out = "".join(f" Left out {count}: {reason}." for reason, count in report.left_out.items())
        shown = str(report)
        return f"""# Preference `auto` of {self.policy}

It chooses the weights on {", ".join(self.objectives)} from the last message of a user. `paretune serve RUN --auto FOLDER` uses it
for requests that ask for `auto`; within the bounds of the server, and said in every answer.

**On held-out prompts:** {shown}.

Learned from {report.rows} {report.kind} on {report.prompts} different prompts.{left_out}

The constant preference that the same data give:

| objective | weight |
|---|---|
{weights}

It reads the message through {self.encoder} (fingerprint {self.encoder_fingerprint}), its first few hundred tokens alone, and knows
nothing of who asks. It decides for people: what the people did not ask about, it guesses from what is near.
"""


def embedded(frozen: encode.Frozen, texts: Sequence[str], says_cut: bool = False) -> np.ndarray:
    """Return the embeddings ``[n, D]`` of messages; equal ones are read once, and ``says_cut`` warns where the end is not."""
    distinct = list(dict.fromkeys(text[:LONGEST] for text in texts))
    rows = encode.embed(frozen, distinct, says_cut=says_cut)
    places = {text: place for place, text in enumerate(distinct)}
    return np.asarray(rows[[places[text[:LONGEST]] for text in texts]], dtype=np.float64)
