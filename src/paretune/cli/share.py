"""Commands that send policies to the model hub and fetch them: ``push`` and ``pull``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    policy: Annotated[Path, typer.Argument(help="A run's folder, or the folder of one policy.")],
    repository: Annotated[
        str, typer.Argument(help="The repository on the hub, owner/name; it is made where there is none.")
    ],
    name: Annotated[
        str | None, typer.Option("--policy", help="The policy of the run, for example panacea.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public/--private", help="Whether everybody sees a new repository.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="The branch to write, which is made where there is none.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="The base model's name on the hub, where the policy was trained on a folder."),
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="The licence for the card, such as apache-2.0.")
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(help="A language of the data for the card, such as en; repeat for several."),
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="A data set on the hub for the card; repeat for several.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="The message of the commit.")] = None,
    data: Annotated[
        bool,
        typer.Option(
            "--data",
            help="Send the data of the run in place of a policy: prompts, responses and answers with their scores, as a data set.",
        ),
    ] = False,
) -> None:
    """Send a policy to the model hub with a card and the figures of its front; no data, answers or paths are sent.

    With --data the texts of the run are sent instead, as a data set.
    """
    from paretune.core.errors import ConfigError
    from paretune.policies.catalogue import find_policy
    from paretune.policies.shared import push as send
    from paretune.reports.card import About

    about = About(datasets=tuple(dataset or ()), languages=tuple(language or ()), licence=licence or "")
    if data:
        for option, given in (("--policy", name), ("--base", base)):
            if given is not None:
                raise ConfigError(f"{option}: is for a policy; leave it out with --data")
        from paretune.runs.share_data import push_data

        address, counts = push_data(policy, repository, about, public, revision, message)
        sent = ", ".join(f"{part} {count:,}" for part, count in counts.items())
        typer.echo(f"{address}: {sent}\nNext: paretune init hub:{repository}")
        return
    address = send(find_policy(policy, name), repository, about, base, public, revision, message)
    typer.echo(f"{address}\nNext: paretune generate {repository} 'a prompt' -p WEIGHTS")


def pull(
    repository: Annotated[
        str, typer.Argument(help="The repository on the hub, owner/name or owner/name@revision.")
    ],
    folder: Annotated[Path, typer.Argument(help="The new folder to write.")],
    revision: Annotated[
        str | None,
        typer.Option(help="A branch, tag or commit of the repository; by default its main branch."),
    ] = None,
) -> None:
    """Fetch a policy from the model hub into a new folder; its base model is fetched when it is first used."""
    from paretune.policies.shared import pull as fetch

    facts = fetch(repository, folder, revision)
    typer.echo(f"{folder}: {facts.name} over {', '.join(facts.objectives)}, on {facts.named_base.hub_name}")
