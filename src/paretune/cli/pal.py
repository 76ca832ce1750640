"""``paretune pal ...``: prototypes of taste from the votes of several people, their names, and the weights of a person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from paretune.cli.options import DeviceOption, ScorerDtypeOption
from paretune.cli.output import JsonOption, tell

if TYPE_CHECKING:
    from paretune.data.person_votes import PersonVote

pal = typer.Typer(
    help="Find objectives in the votes of several people (PAL), name them, and find a person's weights.",
    no_args_is_help=True,
)

VotesArgument = Annotated[
    str,
    typer.Argument(
        help="A data file of votes with the id of the person under 'user', or the store of a server (SQLite file or URL)."
    ),
]
FolderArgument = Annotated[Path, typer.Argument(help="The folder of the prototypes.")]


@pal.command("fit")
def pal_fit(
    votes: VotesArgument,
    folder: Annotated[Path, typer.Argument(help="The new folder to write the prototypes to.")],
    prototypes: Annotated[int, typer.Option("--prototypes", "-k", help="The number of prototypes.")] = 2,
    model: Annotated[
        Literal["A", "B"], typer.Option(help="A: prototypes are points; B: they are functions of the prompt.")
    ] = "A",
    dimension: Annotated[int, typer.Option(help="The size of the space of responses.")] = 8,
    hidden: Annotated[int, typer.Option(help="Neurons of a hidden layer of the maps; 0 is linear maps.")] = 0,
    distance: Annotated[
        Literal["squared", "norm"],
        typer.Option(
            help="The distance from a person's point; under the squared one weights mix prototypes exactly."
        ),
    ] = "squared",
    loss: Annotated[Literal["logistic", "hinge"], typer.Option(help="The loss of a vote.")] = "logistic",
    device: DeviceOption = None,
    dtype: ScorerDtypeOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Fit prototypes to people's votes over frozen embeddings, and show how many held-out votes they predict."""
    from paretune.scoring.ideal_points import PALForm
    from paretune.scoring.prototype_fit import fit_prototypes
    from paretune.scoring.prototypes import extremes

    form = PALForm(model, prototypes, dimension, hidden, distance, loss)
    given = _votes(votes)
    made = fit_prototypes(given, folder, form, device=device, dtype=dtype)
    facts = {"folder": str(folder), "report": made.report, "in_words": str(made.report)}
    tell({**facts, "prototypes": extremes(made, given, device=device, dtype=dtype)}, as_json, _fitted)


@pal.command("show")
def pal_show(
    folder: FolderArgument,
    votes: VotesArgument,
    count: Annotated[int, typer.Option(min=1, help="The number of examples for each prototype.")] = 3,
    device: DeviceOption = None,
    dtype: ScorerDtypeOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Show the pairs of answers on which each prototype differs most from the others, by which you can name it."""
    from paretune.scoring.prototypes import Prototypes, extremes

    held = Prototypes.load(folder)
    facts = {"folder": str(folder), "report": held.report, "in_words": str(held.report)}
    tell({**facts, "prototypes": extremes(held, _votes(votes), count, device, dtype)}, as_json, _fitted)


@pal.command("name")
def pal_name(
    folder: FolderArgument,
    names: Annotated[
        str, typer.Argument(help="A name for each prototype in their order, such as warm,concise.")
    ],
) -> None:
    """Name the prototypes; a scorer, a preference and a preset find them by these names."""
    from paretune.scoring.prototypes import Prototypes

    named = Prototypes.load(folder).named([name.strip() for name in names.split(",")])
    named.save(folder)
    typer.echo(f"{folder}: {', '.join(named.names)}")


@pal.command("users")
def pal_users(
    folder: FolderArgument,
    votes: VotesArgument,
    user: Annotated[str | None, typer.Option(help="The id of one person; by default all.")] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            help="The folder of a policy over the prototypes: the store's people get their weights as a preset on it."
        ),
    ] = None,
    device: DeviceOption = None,
    dtype: ScorerDtypeOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Find people's weights from 1 to 100 of their votes, and with --policy save them as presets of the server's profiles."""
    from paretune.core.errors import ConfigError
    from paretune.data.person_votes import by_user
    from paretune.scoring.prototypes import Prototypes, taste

    held, people = Prototypes.load(folder), by_user(_votes(votes))
    if user is not None and user not in people:
        raise ConfigError(f"--user {user!r}: no vote of this person; there are votes of {', '.join(people)}")
    wanted = people if user is None else {user: people[user]}
    served = None if policy is None else _served(policy, held.names, votes)
    tastes = {name: taste(held, own, device, dtype) for name, own in wanted.items()}
    facts: dict[str, Any] = {
        "people": {
            name: {"votes": len(people[name]), "preference": preference.as_dict()}
            for name, preference in tastes.items()
        }
    }
    if served is not None:
        from paretune.serving.store.person_votes import PRESET, save_tastes

        facts |= {"policy": served, "preset": PRESET, "saved": save_tastes(votes, served, tastes)}
    tell(facts, as_json, _tastes)


def _served(folder: Path, names: Sequence[str], votes: str) -> str:
    """Return the name of a policy over the prototypes, whose presets are to be saved in a store.

    Raises:
        ConfigError: It has other objectives, or the votes are a file and no store.
        ModelError: The folder holds no policy.
    """
    from paretune.core.errors import ConfigError
    from paretune.policies.policy_file import PolicyFile

    facts = PolicyFile.read(folder)
    if set(facts.objectives) != set(names):
        raise ConfigError(
            f"--policy {folder}: a policy for {', '.join(facts.objectives)}, and prototypes named {', '.join(names)}; expected "
            "one that was trained on the prototypes (score: {objective: NAME, prototype: FOLDER}), or name them as its objectives "
            "with: paretune pal name"
        )
    if _is_file(votes):
        raise ConfigError(
            f"--policy: presets are kept in a store, and {votes} is a data file; give the store of the server"
        )
    return facts.name


def _is_file(votes: str) -> bool:
    from paretune.data.readers import READERS, suffix_of

    return suffix_of(votes) in READERS


def _votes(source: str) -> Sequence[PersonVote]:
    """Return the votes of a data file or of a store, and say what of a store is left out."""
    from paretune.core.errors import ConfigError
    from paretune.core.progress import announce
    from paretune.data.person_votes import read_person_votes

    if _is_file(source):
        return read_person_votes(source)
    try:
        from paretune.serving.store.person_votes import votes_of_store
    except ImportError as error:
        raise ConfigError(f"{error}; a store needs more packages: pip install 'paretune[serve]'") from error
    found = votes_of_store(source)
    announce(f"{source}: {found}")
    return found.votes


def _fitted(facts: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title="What each prototype prefers more than the others do", show_lines=True)
    for column in ("prototype", "prompt", "preferred", "to", "lead"):
        table.add_column(column)
    for name, examples in facts["prototypes"].items():
        for example in examples:
            texts = (example.prompt, example.preferred, example.other)
            table.add_row(Text(name), *(Text(_short(text)) for text in texts), f"{example.lead:.2g}")
    named = f"Name them with: paretune pal name {facts['folder']} NAME,NAME"
    return Group(Text(facts["in_words"]), table, Text(named))


def _short(text: str, most: int = 200) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= most else one_line[: most - 3] + "..."


def _tastes(facts: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title="People's weights, from their votes")
    names = list(next(iter(facts["people"].values()))["preference"])
    for column in ("person", "votes", *names):
        table.add_column(column, justify="left" if column == "person" else "right")
    for name, found in facts["people"].items():
        weights = [f"{found['preference'][objective]:.2f}" for objective in names]
        table.add_row(Text(name), str(found["votes"]), *weights)
    if "saved" not in facts:
        return table
    saved = f"{facts['saved']} presets {facts['preset']!r} on {facts['policy']} are saved"
    return Group(table, Text(saved))
