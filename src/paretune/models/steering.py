"""The gated low-rank layer ``y = W0 x + U (g * (V x))`` on the linear layers of a transformers model.

The gate ``g`` is state set on all layers for a whole step, never an argument of the forward pass: gradient
checkpointing runs the forward again during backward, when an argument is gone and gradients would go silently
wrong. A forward pass without state raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from paretune.core.errors import ModelError
from paretune.core.files import atomic_path, write_text
from paretune.core.folder_form import EXPORT, write_marker
from paretune.models.adapter import Adapter
from paretune.models.gated_linear import Gate, GatedLinear, Recomputation, Setting, State
from paretune.models.gates import Gates, block_gates, gate_of
from paretune.models.quantised import dequantised, is_quantised
from paretune.models.tag_embeddings import NOT_PORTABLE, TokenEmbedding
from paretune.models.targets import layer_names, linear_layers, targeted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


QUANTISED = (
    "the base model is quantised, which a dense model is not: dequantise it to write what was trained (--dequantize), or load the "
    "policy on the unquantised base model to merge the update into that (--quantization none), whose answers differ a little"
)


class Steering:
    """Gated low-rank layers attached to a model, and the gates that steer them.

    Attributes:
        model: The transformers model, changed in place until :meth:`detach`.
        layers: module path -> gated layer.
        embedding: Embedding of the model with the adapter's own tokens; None where it has none.
        rank: R.
        base: Fingerprint of the base model; "" when unknown.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        factors: Mapping[str, tuple[Tensor, Tensor]],
        base: str,
        trainable: bool,
        blocks: tuple[tuple[int, float], ...],
        tokens: Tensor | None = None,
    ) -> None:
        self.embedding: TokenEmbedding | None = None
        if tokens is not None:
            self.embedding = TokenEmbedding(model.get_input_embeddings(), tokens, trainable)
        self.model = model
        self.base = base
        self.blocks = blocks
        self.rank = sum(rank for rank, _ in blocks)
        self._state = State()
        self._flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        model.requires_grad_(False)
        self.layers: dict[str, GatedLinear] = {}
        for path, (U, V) in factors.items():
            linear = model.get_submodule(path)
            assert isinstance(linear, nn.Linear)
            self.layers[path] = GatedLinear(linear, U, V, path, self._state, trainable)
            _replace(model, path, self.layers[path])
        if self.embedding is not None:
            model.set_input_embeddings(self.embedding)

    @classmethod
    def attach(
        cls,
        model: PreTrainedModel,
        targets: Sequence[str],
        rank: int,
        base: str = "",
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        tokens: Tensor | None = None,
    ) -> Steering:
        """Attach fresh trainable layers: U = 0, V Kaiming-uniform (a = sqrt 5) as in LoRA.

        The start is the base model exactly.

        Args:
            model: Any transformers model with nn.Linear layers; all its own parameters are frozen.
            targets: Leaf names ("q_proj"), ends of module paths ("self_attn.q_proj"), or "all-linear": every
                nn.Linear except the output embeddings. With "@15-" or "@0-14" behind it, in these blocks alone.
            rank: R, >= 1.
            base: Fingerprint of the model, stored with its adapters.
            seed: Seed of V; the values do not depend on the device.
            dtype: Number format of U and V, whatever the model's own (fp32 master weights).
            tokens: Input embeddings ``[n, d]`` from which those of further tokens are trained, if any.

        Raises:
            ModelError: A target without match (the linear layers found are listed), layers are attached
                already, or embeddings of another width.
        """
        if rank < 1:
            raise ModelError(f"rank {rank}; expected at least 1")
        generator = torch.Generator().manual_seed(seed)
        factors = {}
        for path, linear in targeted(linear_layers(model), targets).items():
            V = torch.empty(rank, linear.in_features, dtype=dtype)
            nn.init.kaiming_uniform_(V, a=math.sqrt(5), generator=generator)
            factors[path] = (torch.zeros(linear.out_features, rank, dtype=dtype), V)
        return cls(model, factors, base, trainable=True, blocks=((rank, 1.0),), tokens=tokens)

    @classmethod
    def attach_adapter(
        cls, model: PreTrainedModel, adapter: Adapter, trainable: bool = False, base: str = ""
    ) -> Steering:
        """Attach the layers of ``adapter`` (a copy), frozen unless ``trainable``.

        ``base`` is the fingerprint of ``model``, checked when both are known.

        Raises:
            ModelError: Another base model, a module that the model does not have, or one of another shape
                (embeddings of tokens included).
        """
        adapter.check_base(base)
        linears = linear_layers(model)
        for path, (U, V) in adapter.factors.items():
            if path not in linears:
                raise ModelError(
                    f"the adapter is for {path!r}, which is no linear layer of this model; {layer_names(linears)}"
                )
            shape = (linears[path].out_features, linears[path].in_features)
            if shape != (U.shape[0], V.shape[1]):
                raise ModelError(
                    f"{path}: the adapter is for a matrix of {(U.shape[0], V.shape[1])}, the model's is "
                    f"{shape}"
                )
        paths = [path for path in linears if path in adapter.factors]  # the model's order, as in attach
        factors = {
            path: (adapter.factors[path][0].clone(), adapter.factors[path][1].clone()) for path in paths
        }
        return cls(model, factors, adapter.base or base, trainable, adapter.blocks, adapter.tokens)

    def parameters(self) -> list[nn.Parameter]:
        """Return U and V of every layer, and the embeddings of tokens: all that can be trained."""
        return [parameter for _, parameter in self.named_parameters()]

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return (``path.U`` or ``path.V``, or last ``tokens``; parameter) in a fixed order."""
        pairs = [
            pair
            for path, layer in self.layers.items()
            for pair in ((f"{path}.U", layer.U), (f"{path}.V", layer.V))
        ]
        rows = self._rows
        return pairs if rows is None else [*pairs, ("tokens", rows)]

    def adapter(self, scale: float | None = None, info: Mapping[str, object] | None = None) -> Adapter:
        """Return a copy of the values (fp32, CPU); ``scale`` None keeps the scales attached."""
        copies = {
            path: tuple(x.detach().to("cpu", torch.float32, copy=True) for x in (layer.U, layer.V))
            for path, layer in self.layers.items()
        }
        factors = {path: (U, V) for path, (U, V) in copies.items()}
        blocks = self.blocks if scale is None else ((self.rank, float(scale)),)
        single = blocks[0][1] if len(blocks) == 1 else 1.0
        rows = self._rows
        tokens = None if rows is None else rows.detach().to("cpu", copy=True)
        return Adapter(factors, single, self.base, dict(info or {}), blocks, tokens)

    def set(self, adapter: Adapter) -> None:
        """Copy the values of ``adapter`` into the layers in place: same modules, rank and number of tokens required."""
        adapter.check_base(self.base)
        rows, tokens = self._rows, adapter.tokens
        held, given = (0 if x is None else len(x) for x in (rows, tokens))
        if set(adapter.factors) != set(self.layers) or adapter.rank != self.rank or held != given:
            raise ModelError(
                f"an adapter of rank {adapter.rank} on {len(adapter.factors)} modules with {given} tokens for layers of "
                f"rank {self.rank} on {len(self.layers)} with {held}; attach it with attach_adapter, or give one of "
                "the same modules, rank and tokens"
            )
        with torch.no_grad():
            for path, (U, V) in adapter.factors.items():
                self.layers[path].U.copy_(U)
                self.layers[path].V.copy_(V)
            if rows is not None and tokens is not None:
                rows.copy_(tokens)
        self.blocks = adapter.blocks

    def detach(self) -> None:
        """Put the model's own layers (the same objects) and ``requires_grad`` flags back."""
        self._require_free("detach")
        for path, layer in self.layers.items():
            _replace(self.model, path, layer.base)
        if self.embedding is not None:
            self.model.set_input_embeddings(self.embedding.base)
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)
        self.layers, self.embedding = {}, None

    @contextmanager
    def at(self, gates: Gates, index: Tensor | None = None) -> Iterator[None]:
        """Steer the model by ``gates`` until the context ends; forward *and backward* belong inside.

        Args:
            gates: ``[R]`` for all rows, or ``[B, R]`` with one row for each row of the batch; or a mapping
                from every module path to such a tensor. Gradients flow to gates that require them.
            index: int64 ``[T]`` for a packed batch ``[1, T]``: token t takes ``gates[index[t]]``.

        Raises:
            ModelError: A wrong shape, an index out of range, or gates that are not finite; at forward:
                another number of rows or tokens than the batch has.
        """
        self._require_attached()
        if isinstance(gates, Tensor):
            devices = {layer.U.device for layer in self.layers.values()}
            ready = {device: self._prepare(gates, index, device) for device in devices}
            prepared = {path: ready[layer.U.device] for path, layer in self.layers.items()}
        else:
            strangers = sorted(set(gates) - set(self.layers))
            if strangers:
                raise ModelError(f"a gate for {strangers[0]!r}, which is no adapted module of this model")
            prepared = {
                path: self._prepare(gate_of(gates, path), index, layer.U.device)
                for path, layer in self.layers.items()
            }
        with self._state.entered(Setting(prepared)):
            yield

    @contextmanager
    def off(self) -> Iterator[None]:
        """Run the base model alone, exactly, until the context ends."""
        self._require_attached()
        with self._state.entered(Setting(None)):
            yield

    @contextmanager
    def merged(self, gates: Gates | None = None) -> Iterator[PreTrainedModel]:
        """Fold the update at ``gates [R]`` into plain linear layers and yield the model.

        Lasts until the context ends. For generating much text at one preference at the base model's own
        speed, and for saving; nothing can be trained meanwhile. Costs a copy of the adapted matrices; the
        originals are put back as they were.
        """
        self._require_free("merge")
        gates = self.gates() if gates is None else gates
        folded = {}
        for path, layer in self.layers.items():
            gate = gate_of(gates, path)
            if gate.shape != (self.rank,):
                raise ModelError(
                    f"{path}: gate {list(gate.shape)}, expected [{self.rank}]; only one preference can be "
                    "merged"
                )
            folded[path] = layer.merged(gate)
        try:
            self._state.merged = True
            for path, plain in folded.items():
                _replace(self.model, path, plain)
            yield self.model
        finally:
            for path, layer in self.layers.items():
                _replace(self.model, path, layer)
            self._state.merged = False

    def gates(self) -> Tensor:
        """Return the constant gate ``[R]``: every block at its scale (1 for fresh layers)."""
        return block_gates(self.blocks)

    def save_dense(
        self,
        folder: str | Path,
        gates: Gates | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        dequantise: bool = False,
        card: Callable[[PreTrainedModel], str] | None = None,
    ) -> None:
        """Write the whole model with the update at ``gates [R]`` merged in, for plain transformers to load.

        Args:
            folder: New folder, or one of an earlier export.
            gates: Gates of the update.
            tokenizer: Tokenizer that is written beside the model.
            dequantise: Whether a quantised base model is written in its number format, dequantised; else it is refused.
            card: From the model as it is written, the text of its ``README.md``; by default there is none.

        Raises:
            ModelError: The base model is quantised, the adapter has tokens of its own, or ``folder`` holds anything but an
                earlier export.
        """
        if self.embedding is not None:
            raise ModelError(NOT_PORTABLE)
        quantised = is_quantised(self.model)
        if quantised and not dequantise:
            raise ModelError(QUANTISED)
        whole = dequantised(self.model) if quantised else nullcontext()
        with atomic_path(folder, EXPORT) as temporary, whole, self.merged(gates) as model:
            temporary.mkdir()
            model.save_pretrained(temporary)
            if tokenizer is not None:
                tokenizer.save_pretrained(temporary)
            if card is not None:
                write_text(temporary / "README.md", card(model))
            write_marker(temporary)

    def enable_checkpointing(self) -> None:
        """Turn on gradient checkpointing that sets each segment's gates again at its recomputation.

        With it gradients are right even when contexts are nested or left before backward.
        """
        self.model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False, "context_fn": self._checkpoint_contexts}
        )

    def _checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return the contexts of a segment's first run (nothing) and of its recomputation."""
        return nullcontext(), Recomputation(self._state)

    @property
    def _rows(self) -> nn.Parameter | None:
        return None if self.embedding is None else self.embedding.learned.weight

    def _prepare(self, gate: Tensor, index: Tensor | None, device: torch.device) -> Gate:
        if gate.dim() not in (1, 2) or gate.shape[-1] != self.rank or not gate.is_floating_point():
            raise ModelError(
                f"gates of shape {list(gate.shape)} and {gate.dtype}; "
                f"expected floats [{self.rank}], or [B, {self.rank}] by row"
            )
        if not bool(torch.isfinite(gate).all()):
            raise ModelError("gates that are NaN or infinite; check the preference and the adapter's scale")
        span = _active(gate)
        values = (gate if span is None else gate[..., span]).to(device, torch.float32)
        if index is None:
            return Gate(values, span, rows=None if gate.dim() == 1 else gate.shape[0])
        if gate.dim() != 2 or index.dim() != 1 or index.is_floating_point() or not index.numel():
            raise ModelError(
                f"index of shape {list(index.shape)} and {index.dtype} for gates {list(gate.shape)}; "
                "expected integers [T] that choose a row of gates [B, R]"
            )
        low, high = torch.stack(index.aminmax()).tolist()
        if low < 0 or high >= gate.shape[0]:
            raise ModelError(f"index from {low} to {high}, but there are {gate.shape[0]} rows of gates")
        return Gate(values[index.to(device)], span, tokens=index.numel())

    def _require_attached(self) -> None:
        if not self.layers:
            raise ModelError("these layers were detached from the model; attach again")
        if self._state.merged:
            raise ModelError(
                "the update is merged into the model, so gates have no effect; leave "
                "`steering.merged(...)` first"
            )

    def _require_free(self, action: str) -> None:
        self._require_attached()
        if self._state.current is not None:
            raise ModelError(
                f"cannot {action} while gates are set; leave `steering.at(...)` or `steering.off()` first"
            )


@contextmanager
def trained(steering: Steering, gradient_checkpointing: bool) -> Iterator[None]:
    """Train inside this context; at its end the model is as it was before the layers were attached."""
    model = steering.model
    try:
        if gradient_checkpointing:
            steering.enable_checkpointing()
            model.train()
        yield
    finally:
        if gradient_checkpointing:
            model.gradient_checkpointing_disable()
            model.eval()
        steering.detach()


def _active(gates: Tensor) -> slice | None:
    """Return the columns from the first to the last that is non-zero for any row; None for all.

    Leaving the others out saves their work, and makes a one-hot soup the single adapter bit for bit. Not done
    for gates with gradients: a gate of zero has one.
    """
    if gates.requires_grad or not gates.numel():
        return None
    used = gates.reshape(-1, gates.shape[-1]).ne(0).any(dim=0).nonzero()
    if not len(used):
        return slice(0, 0)
    first, last = int(used[0]), int(used[-1]) + 1
    return None if (first, last) == (0, gates.shape[-1]) else slice(first, last)


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
