"""Options that several commands share: which base model, on which device, in which number format; seed and extrapolation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from paretune.core.bounds import SEEDS
from paretune.core.errors import ConfigError

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="The base model's folder or hub name here, where it is another than the policy names; its weights must be the same.",
    ),
]
RevisionOption = Annotated[
    str | None,
    typer.Option(
        help="The branch, tag or commit of the base model on the hub, by default the one that was trained on."
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(help="The device, such as cpu, cuda or mps; by default an accelerator where there is one."),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(help="The number format: auto, float32 or bfloat16; by default that of the run."),
]
QuantizationOption = Annotated[
    str | None,
    typer.Option(
        help="How the base model's matrices are held: none, nf4 (4 bits) or int8; by default as in the run."
    ),
]
ScorerDtypeOption = Annotated[
    str,
    typer.Option(
        help="The number format: auto, float32 or bfloat16; auto is float32 on the CPU, and elsewhere that of the model's files."
    ),
]
ScorerDeviceOption = Annotated[
    str | None,
    typer.Option(
        help="The device of the scorer's model, such as cpu, cuda or mps, unless its entry states one; by default an accelerator."
    ),
]
ScorerOwnDtypeOption = Annotated[
    str | None,
    typer.Option(
        help="The number format of the scorer's model, unless its entry states one: auto, float32 or bfloat16."
    ),
]
RunDeviceOption = Annotated[
    str | None,
    typer.Option(
        help="The device, such as cpu, cuda or mps; by default that of the config, else an accelerator where there is one."
    ),
]
RunDtypeOption = Annotated[
    str | None,
    typer.Option(help="The number format: auto, float32 or bfloat16; by default that of the config."),
]

SeedOption = Annotated[int, typer.Option(help="The seed of the sampling.", min=0, max=SEEDS - 1)]
ExtrapolationOption = Annotated[
    bool, typer.Option("--allow-extrapolation", help="Allow weights below 0, such as concise=1.2,warm=-0.2.")
]
StrengthOption = Annotated[
    float, typer.Option(help="How far to steer: 1 is what was trained, 0 the base model.", min=0, max=10)
]


ChatTemplateOption = Annotated[
    str | None,
    typer.Option(help="Arguments of the model's chat template, such as '{enable_thinking: false}'."),
]


def template_arguments(text: str | None) -> dict[str, Any]:
    """Return what ``--chat-template`` states.

    Raises:
        ConfigError: It is no mapping.
    """
    from paretune.core.yaml_text import parse_yaml

    try:
        values = parse_yaml(text) if text else {}
    except ConfigError as error:
        raise ConfigError(f"--chat-template {text!r:.80}: {error}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(
            f"--chat-template {text!r:.80}: expected a mapping such as '{{enable_thinking: false}}'"
        )
    return values


def with_options(overrides: Sequence[str] | None, device: str | None, dtype: str | None) -> list[str]:
    """Return the overrides of a config with those that ``--device`` and ``--dtype`` stand for behind them."""
    options = {"device": device, "dtype": dtype}
    return [
        *(overrides or ()),
        *(f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None),
    ]
