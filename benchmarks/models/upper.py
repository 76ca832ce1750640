"""What adapters in the upper half of the blocks gain, and what keeping the hidden states below them would.

    python -m benchmarks.models.upper [--rounds 5] [--dtype float32] [--pairs 4] [--prompt 150 200] [--response 60 90]

Three steps of the packed DPO loss: adapters on all linear layers; on those of the upper half (`all-linear@15-`), below which
no backward pass goes; and the same with the states that enter the upper half kept from a pass before (`train.keep_states`), so that
the lower half is not run at all: the texts of a step have to come again for it to gain. Another set of adapters is another model,
so only the last two have to give the same loss. CPU-seconds on one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch

from benchmarks.side_by_side import clocked, figure, in_turn, options, same, start, write
from benchmarks.training.inputs import BETA, RANK, SCALE, pair_options, pair_table, random_lora
from paretune.models.kept_states import keeping
from paretune.models.language_model import LanguageModel, load
from paretune.models.packing import pack, packed_logps
from paretune.models.steering import Steering
from paretune.training.losses import log_ratio_gap, pair_loss


def ways(lm: LanguageModel, arguments: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """Return the steps; each returns its loss."""
    table = pair_table(lm, arguments)
    batch = pack(table.groups(range(len(table))))
    half = lm.model.config.num_hidden_layers // 2

    def way(targets: list[str], kept: bool) -> Callable[[], float]:
        lora = random_lora(lm, targets, seed=1)

        def run() -> float:
            steering = Steering.attach_adapter(lm.model, lora, trainable=True)
            optimizer = torch.optim.AdamW(steering.parameters(), lr=1e-6)
            with keeping(lm.model, float(kept)), steering.at(torch.full((RANK,), SCALE)):
                logps = packed_logps(lm.model, batch).view(-1, 2)
                loss = pair_loss(log_ratio_gap(logps, table.reference), BETA).mean()
                loss.backward()
            optimizer.step()
            steering.detach()
            return float(loss.detach())

        return run

    return {
        "all blocks": way(["all-linear"], False),
        "upper half": way([f"all-linear@{half}-"], False),
        "upper half, lower kept": way([f"all-linear@{half}-"], True),
    }


def main(given: Sequence[str] | None = None) -> None:
    """Run the comparison and print it."""
    parser = options(__doc__ or "", "upper")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    pair_options(parser)
    arguments = parser.parse_args(given)
    start()
    runs = ways(load(arguments.model, arguments.dtype, "cpu"), arguments)
    losses = {name: [run()] for name, run in runs.items()}
    del losses["all blocks"]
    equal = [same("loss of the upper half", losses, relative=1e-5)]
    taken = in_turn({name: clocked(run) for name, run in runs.items()}, arguments.rounds)
    what = f"DPO step, {arguments.dtype}, {arguments.pairs} pairs"
    figures = [figure(what, taken, name, "all blocks") for name in list(runs)[1:]]
    figures.append(figure(what, taken, "upper half, lower kept", "upper half"))
    write(arguments, "upper", "Adapters in the upper half", figures, equal)


if __name__ == "__main__":
    main()
