"""A scorer that is stated in an option, as in a config."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paretune.scoring.function_scorer import FunctionScorer


def built_scorer(text: str, device: str | None, dtype: str | None) -> FunctionScorer:
    """Return the scorer that an option states, with its model on ``device`` in ``dtype`` unless it states these itself.

    Raises:
        ConfigError: It is no mapping, or no scorer.
        ModelError: No device is called so.
    """
    from paretune.core.errors import ConfigError
    from paretune.core.yaml_text import parse_yaml
    from paretune.scoring.scorer import build_scorer

    try:
        spec = parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"--scorer {text!r:.80}: {error}") from error
    if not isinstance(spec, dict):
        raise ConfigError(
            f"--scorer {text!r:.80}: expected a mapping such as '{{objective: short, rule: length, unit: words}}'"
        )
    made = build_scorer(spec, device, dtype)
    if device is not None:
        from paretune.models.devices import device_named

        device_named(device)  # a rule has no model to put there, but a wrong name is a mistake all the same
    return made
