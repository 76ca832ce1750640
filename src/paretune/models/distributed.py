"""One run as several processes: a step's rows are divided among them, and a large model's frozen weights are too.

Every process runs the same program on the same data. The rows of a step are those of the run as one process, in its order, and
each process takes a part of them; the sum of the gradients is that of the one process, up to rounding. The adapter is small, so
all processes hold it whole and update it alike. What nobody trains (weights of the base model) is held whole by each, or with
:func:`shard_weights` by all together (FSDP2).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from math import gcd
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from paretune.core.errors import ConfigError, ModelError, TrainingError
from paretune.core.launch import LAUNCHER, check_launcher, launched
from paretune.models.frozen_linear import FrozenLinear

T = TypeVar("T")
Rows = TypeVar("Rows", Sequence[int], Tensor)

PATIENCE = timedelta(days=7)
"""How long a process waits for the others. The first may score answers alone for hours; the launcher ends all when one dies."""

_SINGLE = (*LAUNCHER, "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_TAKEN = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


def check_processes(processes: int | None) -> None:
    """Raise a ConfigError where another number of processes was started than the config asks for; None takes any number."""
    count = launched()
    if processes is not None and processes != count:
        raise ConfigError(
            f"processes: the config asks for {processes}, but {count} {'was' if count == 1 else 'were'} started; start them with "
            f"`torchrun --nproc_per_node {processes} -m paretune run CONFIG`, or set processes={count} "
            "(`accelerate launch --cpu` starts one, whatever its options)"
        )


def start(device: torch.device, processes: int | None = None) -> Accelerator:
    """Join the processes of this run and return accelerate's view of them.

    Args:
        device: Device of the model; it decides how processes communicate (gloo on the CPU).
        processes: Number of processes in the config; None takes any number.

    Raises:
        ConfigError: Another number was started, or accelerate is set to shard.
        ParetuneError: The variables of a launcher do not fit together.
    """
    count = launched()
    if count > 1:
        check_launcher()
    else:
        for name in _SINGLE:  # left over from another job, and taken for a launcher by accelerate
            os.environ.pop(name, None)
    check_processes(processes)
    for variable, name in _TAKEN.items():
        if os.environ.get(variable, "").lower() in ("1", "true"):
            raise ConfigError(
                f"accelerate is set to shard with {name} ({variable}), which would take over model and optimiser; start with "
                "torchrun instead, and set sharding: fsdp where the model does not fit"
            )
    cpu = device.type == "cpu"
    if count > 1:
        PartialState(cpu=cpu, timeout=PATIENCE)
    accelerator = Accelerator(cpu=cpu)
    if accelerator.num_processes != count:
        raise TrainingError(
            f"{count} processes were started, but they do not see each other (each sees {accelerator.num_processes}); "
            "start them with torchrun"
        )
    return accelerator


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        sharded: Whether the model's weights are divided among them, so that all must run it together.
    """

    rank: int = 0
    size: int = 1
    sharded: bool = False

    @classmethod
    def of(cls, accelerator: Accelerator, model: nn.Module) -> ProcessGroup:
        """Return the processes that ``accelerator`` knows of, which run ``model``."""
        size = accelerator.num_processes
        return cls(accelerator.process_index, size, size > 1 and is_sharded(model))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have arrived."""
        if self.size > 1:
            PartialState().wait_for_everyone()

    def tell(self, value: T) -> T:
        """Return the first process's ``value``."""
        return broadcast_object_list([value])[0] if self.size > 1 else value

    def once(self, make: Callable[[], T]) -> T:
        """Return what ``make`` returns in the first process, the only one that calls it; it must not run a sharded model."""
        return self.tell(make() if self.first else None)  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in their order."""
        return list(gather_object([value])) if self.size > 1 else [value]

    def divide(self, run: Callable[..., Sequence[T]], *columns: Sequence[Any]) -> list[T]:
        """Return ``run(*columns)``, one result per row: each process runs its :meth:`part` of the rows, and all get all results."""
        parts = [self.part(column) for column in columns]
        return self.merge(run(*parts) if len(parts[0]) else [])

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """Return those of ``items`` on which this process runs the model: every ``size``-th, or all where weights are divided."""
        return items if self.sharded else items[self.rank :: self.size]

    def merge(self, results: Sequence[T]) -> list[T]:
        """Return the results of all processes in the order of the items that :meth:`part` divided.

        Args:
            results: Results of this process.
        """
        if self.sharded:
            return list(results)
        parts = self.gather(list(results))
        return [parts[n % self.size][n // self.size] for n in range(sum(map(len, parts)))]


@dataclass(frozen=True)
class WorkSplit:
    """What this process runs of the forwards of a step.

    The forwards are dealt out first; where there are fewer than processes, ``ways`` of these divide the rows of each forward.

    Attributes:
        team: The processes.
        ways: Number of processes that divide one forward's rows.
    """

    team: ProcessGroup = ProcessGroup()
    ways: int = 1

    @classmethod
    def of(cls, team: ProcessGroup, accumulate: int, rows: int, divisible: bool = True) -> WorkSplit:
        """Return the share of this process in steps of ``accumulate`` forwards of ``rows`` rows.

        Args:
            team: The processes.
            accumulate: Forwards of an optimiser step (``train.accumulate``).
            rows: Rows of each (``train.batch_pairs``).
            divisible: Whether the task can run a forward on some of its rows.

        Raises:
            ConfigError: The processes do not divide the step.
        """
        ways = team.size // gcd(accumulate, team.size)
        if not divisible and ways > 1:
            raise ConfigError(
                f"{team.size} processes share the forwards of a step here, but train.accumulate={accumulate} is no multiple of "
                f"{team.size}; set train.accumulate to one, or start fewer processes"
            )
        if rows % ways:
            raise ConfigError(
                f"{team.size} processes cannot share a step of {accumulate * rows} rows evenly (train.accumulate={accumulate} "
                f"forwards of train.batch_pairs={rows}); set train.batch_pairs or train.accumulate to a multiple of {team.size}, "
                "or start another number of processes"
            )
        return cls(team, ways)

    def forwards(self, accumulate: int) -> range:
        """Return the numbers of the forwards in which this process takes part."""
        return range(self.team.rank // self.ways, accumulate, self.team.size // self.ways)

    def rows(self, rows: Rows) -> Rows:
        """Return this process's part of the rows of a forward."""
        return rows[self.team.rank % self.ways :: self.ways]

    def total(self, part: Tensor) -> Tensor:
        """Return the sum of ``part`` over the processes of this forward; the gradient is that of ``part`` alone.

        A loss that is any function of such totals has, summed over processes, the gradient of the undivided forward.
        """
        if self.ways == 1:
            return part
        value = part.detach().clone()
        dist.all_reduce(value, group=_forward_group(self.team.size, self.ways))
        return value + (part - part.detach())

    def mean(self, part: Tensor) -> Tensor:
        """Return the mean of ``part [b, ...]`` over the rows of all processes of this forward (equally many each)."""
        return self.total(part.mean() / self.ways)

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over all processes, in one message; one that is missing somewhere is 0 there."""
        if self.team.size == 1:
            return
        held = list(parameters)
        for parameter in held:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in held]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, values in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(values.view_as(gradient))

    def reduce_record(self, record: dict[str, float], counts: Collection[str]) -> dict[str, float]:
        """Return metrics of this process's forwards for the whole step: ``counts`` summed, others averaged over rows."""
        records = self.team.gather(record)
        return {
            name: sum(one[name] for one in records) / (1 if name in counts else self.ways) for name in record
        }

    def reduce_sums(self, sums: Tensor) -> Tensor:
        """Return sums over this process's :meth:`ProcessGroup.part` of held-out batches for all of them."""
        if self.team.size > 1 and not self.team.sharded:
            dist.all_reduce(sums)
        return sums


@cache
def _forward_group(size: int, ways: int) -> Any:
    """Return the processes that divide a forward with this one (None: all)."""
    return None if ways == size else dist.new_subgroups(ways)[0]


def shard_weights(model: Any, device: torch.device) -> None:
    """Divide the weights of the decoder's layers among all processes (FSDP2); each layer is brought together while it runs.

    Embeddings, the last norm and the head stay whole. Adapters attached later do too.

    Raises:
        ConfigError: There is one process.
        ModelError: A decoder without a list of layers.
    """
    if launched() == 1:
        raise ConfigError(
            "sharding: fsdp divides a model among processes, and this is the only one; start several with "
            "`torchrun --nproc_per_node N -m paretune run CONFIG`, or set sharding: none"
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    decoder = model.get_decoder()
    layers = [layer for child in decoder.children() if isinstance(child, nn.ModuleList) for layer in child]
    if not layers:
        raise ModelError(f"{type(model).__name__}: no list of layers whose weights could be sharded")
    for module in model.modules():
        if isinstance(module, FrozenLinear):
            module.prepack = False  # the copy would be of the whole weight, on every process
    mesh = init_device_mesh(device.type, (launched(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    outside = {parameter for parameter in decoder.parameters() if id(parameter) not in inside}
    fully_shard(decoder, mesh=mesh, ignored_params=outside)  # the root, which lets a layer be fetched ahead
    model.to(device)


def is_sharded(model: nn.Module) -> bool:
    """Return whether :func:`shard_weights` was applied to ``model``."""
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(module, FSDPModule) for module in model.modules())
