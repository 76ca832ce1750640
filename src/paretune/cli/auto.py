"""``paretune auto ...``: a head that chooses a preference for each prompt, learned from votes or labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from paretune.cli.options import DeviceOption, ScorerDtypeOption
from paretune.cli.output import JsonOption, tell

if TYPE_CHECKING:
    from paretune.policies.catalogue import Source
    from paretune.scoring.auto_fit import AutoData
    from paretune.scoring.auto_head import AutoHead

auto = typer.Typer(
    help="Learn to choose a preference for each prompt, from votes or labels.", no_args_is_help=True
)


@auto.command("fit")
def auto_fit(
    run: Annotated[Path, typer.Argument(help="A run's folder, or the folder of one policy.")],
    folder: Annotated[Path, typer.Argument(help="The new folder to write the head to.")],
    votes: Annotated[
        str | None, typer.Option(help="The store of a server (SQLite file or URL), whose votes are learned.")
    ] = None,
    labels: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="A data file with a 'prompt' and the wanted 'preference' in each record, in place of votes."
        ),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="The policy of the run whose preference is chosen.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="The profile whose votes are learned; by default all.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Keep the head though it is not shown to be better than a constant preference."
        ),
    ] = False,
    device: DeviceOption = None,
    dtype: ScorerDtypeOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Fit a head, and show whether it is better than a constant preference on held-out prompts; if not, nothing is written."""
    from paretune.core.errors import ConfigError
    from paretune.scoring.auto_fit import fit_auto

    if (votes is None) == (labels is None):
        given = "got both" if votes is not None else "got neither"
        raise ConfigError(f"give either --votes STORE, such as {run}/store.sqlite, or --labels FILE; {given}")
    if profile is not None and votes is None:
        raise ConfigError("--profile names whose votes are learned; give --votes with it")
    source = _source(run, policy)
    data = _voted(source, votes, profile) if votes is not None else _labelled(source, labels or Path())
    made = fit_auto(data, folder, force, device=device, dtype=dtype)
    tell(_facts(folder, made), as_json, _render)


@auto.command("show")
def auto_show(
    folder: Annotated[Path, typer.Argument(help="The folder of the head.")],
    prompt: Annotated[
        list[str] | None, typer.Option(help="A prompt to choose a preference for; repeat for several.")
    ] = None,
    device: DeviceOption = None,
    dtype: ScorerDtypeOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Show what a head was learned from and was shown to do, and what it chooses for prompts."""
    from paretune.scoring.auto_head import AutoHead

    held = AutoHead.load(folder)
    facts = _facts(folder, held)
    if prompt:
        chosen = held.preferences(held.load_encoder(device, dtype), prompt)
        facts["chosen"] = [
            {"prompt": text, "preference": one.as_dict()} for text, one in zip(prompt, chosen, strict=True)
        ]
    tell(facts, as_json, _render)


def _source(run: Path, policy: str | None) -> Source:
    """Return the policy that a head is for.

    Raises:
        ConfigError: There are several and none is named, or it has but one objective or preference.
        ModelError: There is none.
    """
    from paretune.core.errors import ConfigError
    from paretune.policies.catalogue import find_sources

    found = [source for source in find_sources(run, [policy] if policy else []) if len(source.anchors) != 1]
    if len(found) > 1:
        names = ", ".join(source.name for source in found)
        raise ConfigError(f"{run}: holds the policies {names}; choose one with --policy")
    if not found or len(found[0].objectives) < 2:
        raise ConfigError(f"{run}: a policy of one preference leaves nothing to choose")
    return found[0]


def _voted(source: Source, votes: str, profile: str | None) -> AutoData:
    from paretune.choosing.auto import votes_of
    from paretune.core.errors import ConfigError
    from paretune.scoring.auto_fit import AutoData

    try:
        from paretune.serving.store.auto_votes import votes_with_scores
    except ImportError as error:
        raise ConfigError(f"{error}; a store needs more packages: pip install 'paretune[serve]'") from error
    if source.surface is None:
        raise ConfigError(
            f"{source.folder}: no front of {source.name} was measured, and its ranges are the units of the scores in votes; run "
            "`paretune run` to the end, or learn from --labels"
        )
    found = votes_with_scores(votes, source.surface, profile)
    targets = votes_of(found.ballots, source.surface.scale, source.objectives)
    return AutoData(found.prompts, targets, source.objectives, source.name, found.own, found.left_out)


def _labelled(source: Source, labels: Path) -> AutoData:
    import numpy as np

    from paretune.choosing.auto import Labels
    from paretune.data.preference_labels import read_preference_labels
    from paretune.scoring.auto_fit import AutoData

    found = read_preference_labels(labels, source.objectives)
    weights = Labels(np.stack([label.preference.array() for label in found]))
    return AutoData([label.prompt for label in found], weights, source.objectives, source.name)


def _facts(folder: Path, held: AutoHead) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "policy": held.policy,
        "constant": held.constant.as_dict(),
        "encoder": held.encoder,
        "report": held.report,
        "in_words": str(held.report),
    }


def _render(facts: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    report = facts["report"]
    left_out = "".join(f"; left out {count}: {reason}" for reason, count in report.left_out.items())
    lines = [
        f"{facts['folder']}: chooses the preference of {facts['policy']}",
        f"Learned from {report.rows} {report.kind} on {report.prompts} prompts{left_out}",
        facts["in_words"][0].upper() + facts["in_words"][1:],
    ]
    table = Table()
    for column in ("prompt", *facts["constant"]):
        table.add_column(column, justify="left" if column == "prompt" else "right")
    shown = [("any (constant)", facts["constant"])]
    shown += [(entry["prompt"], entry["preference"]) for entry in facts.get("chosen", ())]
    for text, weights in shown:
        table.add_row(Text(text), *(f"{weight:.2f}" for weight in weights.values()))
    use = Text(f"Use it with: paretune serve RUN --auto {facts['folder']}")
    return Group(*map(Text, lines), table, use)
