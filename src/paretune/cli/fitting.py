"""``paretune score fit``: a linear head on frozen embeddings, or a LoRA with a head for each objective."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paretune.cli.data import PathOption, Source, SplitOption, load_labelled
from paretune.cli.options import DeviceOption, ScorerDtypeOption
from paretune.cli.output import JsonOption, tell
from paretune.models.embedded import EMBEDDED

if TYPE_CHECKING:
    from paretune.training.loop import Training

LORA_DEFAULTS = {"steps": 300, "batch_pairs": 8, "learning_rate": 1e-4}
"""Settings of a reward model's training that differ from those of an adapter's."""


class Form(str, Enum):
    """What is fitted."""

    head = "head"
    lora = "lora"


def score_fit(
    source: Source,
    objective: Annotated[
        list[str],
        typer.Option(help="The objective whose pairs are learned; repeat for several with --form lora."),
    ],
    folder: Annotated[Path, typer.Option(help="The new folder to write the fit to.")],
    form: Annotated[
        Form,
        typer.Option(help="A linear head on frozen embeddings, or a LoRA with a head for each objective."),
    ] = Form.head,
    model: Annotated[
        str, typer.Option(help="The language model of --form lora: a folder, a hub name or a .gguf.")
    ] = EMBEDDED,
    train: Annotated[
        list[str] | None,
        typer.Option(
            help="A setting of --form lora as KEY=VALUE, as under train: in a config; repeat for several."
        ),
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="Data whose pairs are held out, in place of a part of the data.")
    ] = None,
    margins: Annotated[
        bool,
        typer.Option("--margins", help="Take the column margin of the data into the loss of --form lora."),
    ] = False,
    ties: Annotated[bool, typer.Option(help="Whether --form lora learns from ties, as even odds.")] = True,
    path: PathOption = None,
    split: SplitOption = None,
    device: DeviceOption = None,
    dtype: ScorerDtypeOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Fit a reward to pairs (Bradley-Terry), and show its accuracy on held-out pairs."""
    from paretune.core.errors import ConfigError

    named = list(dict.fromkeys(objective))
    if form is Form.head:
        from paretune.scoring.bradley_terry import fit_head

        if len(named) > 1:
            raise ConfigError("--objective: a head has one objective; give one, or --form lora for several")
        if train or margins or not ties or model != EMBEDDED:
            raise ConfigError(
                "--model, --train, --margins and --no-ties are settings of --form lora; give it, or leave them out"
            )
        held_out = None if test is None else load_labelled(str(test), None, named[0], None)
        dataset = load_labelled(source, path, named[0], split)
        fitted = fit_head(dataset, named[0], folder, held_out, device=device, dtype=dtype)
        _print(fitted, str(fitted), as_json)
        return
    from paretune.models.language_model import load
    from paretune.training.reward_fit import fit_reward_model

    training = _training(train or [])
    # One objective names what the comparisons of data without names are about; several must be named by the data.
    one = named[0] if len(named) == 1 else None
    dataset = load_labelled(source, path, one, split).select(named)
    held_out = None if test is None else load_labelled(str(test), None, one, None).select(named)
    lm = load(model, dtype, device)
    reports = fit_reward_model(
        lm, dataset, folder, training, held_out, margins, ties, say=lambda text: typer.echo(text, err=True)
    )
    _print(reports, "\n".join(map(str, reports)), as_json)


def _print(facts: Any, text: str, as_json: bool) -> None:
    if as_json:
        tell(facts, True, str)
    else:
        typer.echo(text)


def _training(words: list[str]) -> Training:
    """Return the settings of ``KEY=VALUE`` words.

    Raises:
        ConfigError: A word that is none, an unknown key, or a wrong value.
    """
    from paretune.core.errors import ConfigError
    from paretune.core.settings import parse
    from paretune.core.yaml_text import parse_yaml
    from paretune.training.loop import Training

    values: dict[str, Any] = dict(LORA_DEFAULTS)
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not key:
            raise ConfigError(f"--train {word!r}: expected KEY=VALUE, such as steps=300")
        values[key.strip()] = parse_yaml(text)
    return parse(Training, values, "train").settled(checkpointing=False)
