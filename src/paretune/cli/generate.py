"""``paretune generate``: one prompt, answered at one or more preferences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paretune.cli import options
from paretune.cli.output import JsonOption, tell

if TYPE_CHECKING:
    from paretune.core.preference import Preference
    from paretune.generation.generate import Response


def generate(
    policy: Annotated[
        Path,
        typer.Argument(
            help="The folder of a policy, for example runs/quickstart/policies/modpo, or its name on the hub."
        ),
    ],
    prompt: Annotated[str, typer.Argument(help="The prompt to answer.")],
    preference: Annotated[
        list[str],
        typer.Option(
            "--preference",
            "-p",
            help="A preference to answer at, such as concise=0.7,warm=0.3, or concise+warm for equal weights; repeat to compare.",
        ),
    ],
    max_new_tokens: Annotated[
        int, typer.Option(help="The length limit of an answer, in tokens.", min=1)
    ] = 160,
    temperature: Annotated[
        float, typer.Option(help="The sampling temperature; 0 is greedy.", min=0, max=100)
    ] = 0.7,
    seed: options.SeedOption = 0,
    model: options.ModelOption = None,
    revision: options.RevisionOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    quantization: options.QuantizationOption = None,
    allow_extrapolation: options.ExtrapolationOption = False,
    strength: options.StrengthOption = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Answer one prompt at one or more preferences, all in one batch."""
    from paretune.core.preference import Preference
    from paretune.core.sampling import Sampling
    from paretune.data.rows import Message
    from paretune.policies.policy import is_interpolated
    from paretune.policies.policy_file import BaseChoice, PolicyFile
    from paretune.policies.saving import load_policy
    from paretune.policies.shared import policy_folder

    folder = policy_folder(policy)
    objectives = PolicyFile.read(folder).objectives
    preferences = [
        Preference.parse(text, objectives, allow_extrapolation).at(strength) for text in preference
    ]
    sampling = Sampling(max_new_tokens, temperature, 0.95)
    loaded = load_policy(folder, **vars(BaseChoice(model, revision, device, dtype, quantization)))
    answers = loaded.generate(
        [(Message("user", prompt),)] * len(preferences), preferences, sampling, [seed] * len(preferences)
    )
    served = loaded.used(preferences)
    if as_json:
        rows = zip(preferences, served, answers, strict=True)
        facts = [
            _facts(asked, used, answer) | ({"interpolated": True} if is_interpolated(loaded, used) else {})
            for asked, used, answer in rows
        ]
        tell(facts, True, str)
        return
    for asked, used, answer in zip(preferences, served, answers, strict=True):
        note = "" if asked == used else f" (served by the anchor {used})"
        note += " (interpolated: a soup of the adapters around it)" if is_interpolated(loaded, used) else ""
        note += " (extrapolated: off the simplex)" if asked.extrapolated else ""
        typer.secho(f"{asked}{note}", bold=True)
        typer.echo(answer.text + ("..." if answer.truncated else "") + "\n")


def _facts(asked: Preference, used: Preference, answer: Response) -> dict[str, Any]:
    """Return an answer as JSON values."""
    where: dict[str, Any] = {"preference": asked.as_dict(), "used": used.as_dict()}
    where |= {} if asked.strength == 1 else {"strength": asked.strength}
    return {**where, "text": answer.text, "truncated": answer.truncated}
