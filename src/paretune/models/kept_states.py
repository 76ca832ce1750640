"""The states that enter the lowest adapted block, kept for each text, so that the frozen blocks below read a text once.

Blocks below the lowest adapter give the same states whatever is trained: to a pair that comes again in another epoch, at another
preference or under another seed, and to a response that the base model has just read. A group (a prompt with its responses) is read
alone when it is first met. So its numbers depend on nothing that stands beside it or was met before, and a run that was killed ends
with the same bytes; they differ in rounding from those of a pass over the whole batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from paretune.core.errors import ModelError, lacks_memory
from paretune.models.distributed import is_sharded
from paretune.models.gated_linear import GatedLinear
from paretune.models.packed_attention.layout import PackedLayout
from paretune.models.packing import PackedBatch, every_state, reading
from paretune.models.targets import block_of

GIGABYTE = 10**9
TOLERANCE = {torch.float32: 1e-4}
"""Largest mean difference between states that were kept and those of a whole pass, as a share of their mean size."""
ROUNDED = 0.05
"""The same in number formats that round more."""


class KeptStates:
    """The states of the groups that were met last, up to a number of bytes.

    Attributes:
        block: Number of the lowest block that reads them.
        room: Bytes that may be kept.
    """

    def __init__(self, model: PreTrainedModel, block: int) -> None:
        decoder = model.get_decoder()
        self.block, self.room = block, 0
        self._decoder = decoder
        blocks = list(decoder.layers)
        self._given = _Instead(blocks[block - 1])
        passed = [_Instead(each) for each in blocks]
        self._below = nn.ModuleList([*blocks[:block], *passed[block:]])
        self._taken = passed[block]
        self._taken.watches = True
        self._above = nn.ModuleList([*passed[: block - 1], self._given, *blocks[block:]])
        self._states: OrderedDict[bytes, Tensor] = OrderedDict()
        self._held = 0
        self._proven = False

    def read(self, model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        """Return the last states ``[T, d]`` of a batch, of which the blocks below run for groups that are not kept alone.

        Raises:
            ModelError: At the first batch, where the model's blocks cannot be passed over.
        """
        if self._proven:
            return self._read(model, batch)
        whole = every_state(model, batch)
        try:
            found = self._read(model, batch)
        except Exception as error:
            if lacks_memory(error):
                raise
            raise _cannot(model, " ".join(str(error).split())[:200]) from error
        off = float((whole.detach() - found.detach()).abs().mean() / whole.detach().abs().mean())
        if not off <= TOLERANCE.get(whole.dtype, ROUNDED):
            raise _cannot(model, f"states are off by {off:.2g} of their size")
        self._proven = True
        return found

    def _read(self, model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        self._given.states = torch.cat([self._of(model, part) for part in _groups(batch)])[None]
        try:
            with self._in_place(self._above):
                return every_state(model, batch)
        finally:
            self._given.states = None

    def _of(self, model: PreTrainedModel, group: PackedBatch) -> Tensor:
        """Return the states ``[t, d]`` of one group that enter the block."""
        key = _key(group)
        kept = self._states.get(key)
        if kept is not None:
            self._states.move_to_end(key)
            return kept
        with self._in_place(self._below), torch.no_grad():
            every_state(model, group)
        states, self._taken.seen = self._taken.seen, None
        if states is None or states.dim() != 3:
            raise _cannot(model, "a block does not hand on one tensor of states")
        made = states[0].clone()
        self._states[key] = made
        self._held += made.nbytes
        while self._held > self.room:
            self._held -= self._states.popitem(last=False)[1].nbytes
        return made

    @contextmanager
    def _in_place(self, blocks: nn.ModuleList) -> Iterator[None]:
        own = self._decoder.layers
        self._decoder.layers = blocks
        try:
            yield
        finally:
            self._decoder.layers = own


class _Instead(nn.Module):
    """Stands in the place of a block: hands on its input, or other states that are given."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        object.__setattr__(
            self, "_block", block
        )  # no module of this one: its parameters are not listed twice
        self.states: Tensor | None = None
        self.seen: Tensor | None = None
        self.watches = False

    def __getattr__(self, name: str) -> Any:
        """Return what the model asks of the block, such as its kind of attention."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "_block"), name)

    def forward(self, hidden: Tensor, *others: Any, **named: Any) -> Tensor:
        if self.watches:
            self.seen = hidden.detach()
        return hidden if self.states is None else self.states


_KEPT: WeakKeyDictionary[PreTrainedModel, dict[int, KeptStates]] = WeakKeyDictionary()


@contextmanager
def keeping(model: PreTrainedModel, gigabytes: float) -> Iterator[str]:
    """Keep states inside the context, in which an adapter is attached; yield why none are kept, where none are.

    What is kept serves later contexts of the model whose lowest adapted block is the same.
    """
    block, why = _lowest(model) if gigabytes else (0, "")
    if not block:
        yield why
        return
    kept = _KEPT.setdefault(model, {})
    for other in set(kept) - {block}:
        del kept[other]  # their memory is needed
    states = kept.setdefault(block, KeptStates(model, block))
    states.room = int(gigabytes * GIGABYTE)
    with reading(model, states.read):
        yield ""


def _lowest(model: PreTrainedModel) -> tuple[int, str]:
    """Return the lowest adapted block, or 0 and why its input changes while an adapter is trained."""
    adapted = [block_of(path) for path, module in model.named_modules() if isinstance(module, GatedLinear)]
    if any(parameter.requires_grad for parameter in model.get_input_embeddings().parameters()):
        return 0, "embeddings of tokens are trained, which every block reads"
    if is_sharded(model):
        return 0, "the weights are divided among processes"
    if not isinstance(getattr(model.get_decoder(), "layers", None), nn.ModuleList):
        return 0, f"the blocks of {type(model).__name__} are not where those of other models are"
    lowest = min(adapted, default=0)
    return (
        (lowest, "")
        if lowest > 0
        else (0, "adapters reach the first block; targets such as all-linear@15- leave some below")
    )


def _groups(batch: PackedBatch) -> Iterator[PackedBatch]:
    """Yield each group of a batch as one of its own, with what the blocks read of it."""
    start = 0
    for prompt, responses in batch.layout.groups:
        end = start + prompt + sum(responses)
        yield PackedBatch(
            batch.input_ids[:, start:end],
            batch.position_ids[:, start:end],
            PackedLayout(((prompt, responses),)),
            *(
                batch.predictors[:0],
                batch.targets[:0],
                batch.responses[:0],
                batch.groups[:0],
                batch.lengths[:0],
            ),
        )
        start = end


def _key(group: PackedBatch) -> bytes:
    """Return what decides the states of a group: its tokens, and where its texts end."""
    ((prompt, responses),) = group.layout.groups
    sizes = torch.tensor([prompt, *responses], dtype=torch.long)
    return b"|".join(each.cpu().numpy().tobytes() for each in (sizes, group.input_ids))


def _cannot(model: PreTrainedModel, why: str) -> ModelError:
    return ModelError(
        f"{type(model).__name__}: its lower blocks cannot be passed over ({why}); leave train.keep_states out"
    )
