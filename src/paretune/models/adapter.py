"""Low-rank updates as values: save and load, stack, and the border to PEFT's LoRA files.

PEFT's format is JSON and safetensors, read and written here without PEFT. An update is ``U diag(g) V`` for
each adapted matrix, ``U [out, R]``, ``V [R, in]``; PEFT calls V ``lora_A`` and U ``lora_B``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from paretune.core.errors import ModelError, ParetuneError
from paretune.core.files import atomic_path, fingerprint, read_json, write_json, write_text
from paretune.core.folder_form import EXPORT, FolderForm, write_marker
from paretune.core.tensor_file import check_readable
from paretune.models.gates import Gates, block_gates, gate_of
from paretune.models.lora_variants import refuse_variants
from paretune.models.tag_embeddings import NOT_PORTABLE
from paretune.models.tensors import FLOATS, check_finite, read_tensors

FILES = ("adapter.json", "adapter.safetensors")
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
FORM = FolderForm(FILES[0], ("format", "base", "scale", "blocks"), FILES)
"""The form of the folder of an adapter."""
_FORMAT = 1
_LARGEST = torch.finfo(torch.float32).max
_TOKENS = "tokens"  # key of the embeddings beside PATH.U and PATH.V


@dataclass(frozen=True, eq=False)
class Adapter:
    """A low-rank update for one base model, as plain fp32 tensors on the CPU.

    Attributes:
        factors: module path -> (U ``[out, R]``, V ``[R, in]``); R is the same for all modules.
        scale: Constant gate of a single adapter (LoRA's alpha / r); 1 for a stack.
        base: Fingerprint of the base model it belongs to; "" when unknown.
        info: Free facts that JSON can hold: method, preference, objective, beta, ...
        blocks: (rank, scale) of each adapter stacked in this one, in order; a single adapter has one block.
        tokens: Input embeddings ``[n, d]`` of n tokens numbered on from the end of the model's; None where there are none.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]
    scale: float = 1.0
    base: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    blocks: tuple[tuple[int, float], ...] = ()
    tokens: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.factors:
            raise ModelError("an adapter without any module; give the factors (U, V) of at least one")
        for path, (U, V) in self.factors.items():
            if U.dim() != 2 or V.dim() != 2 or U.shape[1] != V.shape[0] or V.shape[0] != self.rank:
                raise ModelError(
                    f"{path}: U {list(U.shape)} and V {list(V.shape)}; expected [out, {self.rank}] and "
                    f"[{self.rank}, in]"
                )
        if not self.blocks:
            object.__setattr__(self, "blocks", ((self.rank, float(self.scale)),))
        if sum(self.ranks) != self.rank:
            raise ModelError(
                f"blocks of ranks {list(self.ranks)} do not add up to the adapter's rank {self.rank}"
            )
        if not all(abs(scale) <= _LARGEST for scale in self.scales):
            raise ModelError(f"scales {list(self.scales)} of an adapter; expected finite numbers in float32")

    @property
    def rank(self) -> int:
        """R, the columns of U: the sum of the ranks of all blocks."""
        return next(iter(self.factors.values()))[1].shape[0]

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank of each block."""
        return tuple(rank for rank, _ in self.blocks)

    @property
    def scales(self) -> tuple[float, ...]:
        """The scale of each block."""
        return tuple(scale for _, scale in self.blocks)

    @property
    def fingerprint(self) -> str:
        """Identifies the adapter by the values of its factors, scales and tokens."""
        values = [x for _, pair in sorted(self.factors.items()) for x in pair]
        if self.tokens is not None:
            values.append(self.tokens)
        raw = [x.contiguous().numpy().tobytes() for x in values]
        return fingerprint(sorted(self.factors), [list(block) for block in self.blocks], *raw)

    def gates(self) -> Tensor:
        """Return the constant gate ``[R]`` (fp32): every block at its scale, as it was trained."""
        return block_gates(self.blocks)

    def save(self, folder: str | Path) -> None:
        """Write ``adapter.json`` and ``adapter.safetensors``, bit-exact.

        ``folder`` becomes exactly this adapter.

        Raises:
            ModelError: ``folder`` holds files of something else, which replacing it would destroy.
        """
        plain = replace(
            self,
            factors={path: (_plain(U), _plain(V)) for path, (U, V) in self.factors.items()},
            tokens=None if self.tokens is None else _plain(self.tokens),
        )
        tensors = {
            f"{path}.{name}": x
            for path, pair in plain.factors.items()
            for name, x in zip("UV", pair, strict=True)
        }
        if plain.tokens is not None:
            tensors[_TOKENS] = plain.tokens
        settings = {
            "format": _FORMAT,
            "base": self.base,
            "scale": self.scale,
            "blocks": [list(block) for block in self.blocks],
            "info": dict(self.info),
            "fingerprint": plain.fingerprint,
        }
        with atomic_path(folder, FORM) as temporary:
            _write_files(temporary, FILES, settings, tensors)

    @classmethod
    def load(cls, folder: str | Path, base: str | None = None) -> Adapter:
        """Read an adapter written by :meth:`save`; ``base`` is the fingerprint of the model it is meant for.

        Raises:
            ModelError: A file is missing or damaged, holds other numbers than finite ones in float32 or not those that were
                saved, or the adapter belongs to another base model.
        """
        required = ("format", "base", "scale", "blocks", "info")
        settings, tensors = _read_folder(folder, FILES, required, ("F32",))
        if settings["format"] != _FORMAT:
            raise ModelError(
                f"{Path(folder) / FILES[0]}: adapter format {settings['format']!r}, expected {_FORMAT}; "
                "it was not written by this version, update paretune or convert the adapter from PEFT again"
            )
        tokens = tensors.pop(_TOKENS, None)
        factors = _pairs(tensors, re.compile(r"(?P<path>.+)\.(?P<name>[UV])"), Path(folder) / FILES[1])
        try:
            adapter = cls(
                factors={path: (pair["U"], pair["V"]) for path, pair in factors.items()},
                scale=float(settings["scale"]),
                base=str(settings["base"]),
                info=dict(settings["info"]),
                blocks=tuple((int(rank), float(scale)) for rank, scale in settings["blocks"]),
                tokens=tokens,
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"{Path(folder) / FILES[0]}: {error}; copy or save the adapter again") from error
        # Written since version 0.1; a bit that flipped on the disk leaves a file that reads well.
        if settings.get("fingerprint", adapter.fingerprint) != adapter.fingerprint:
            raise ModelError(
                f"{Path(folder) / FILES[1]}: its numbers are not those that were saved (the disk or a copy changed them); copy "
                "the adapter again, or delete the folder of its stage to have it trained again"
            )
        adapter.check_base(base or "", str(folder))
        return adapter

    def check_base(self, base: str, name: str = "adapter") -> None:
        """Raise a ModelError when the adapter belongs to another base model than ``base`` ("" = unknown)."""
        if self.base and base and self.base != base:
            raise ModelError(
                f"{name}: trained on base model {self.base}, but the model in use is {base}; load the base "
                "model it was trained on"
            )


def load_any(folder: str | Path) -> Adapter:
    """Read an adapter of either form: written by :meth:`Adapter.save`, or a LoRA saved by PEFT.

    Raises:
        ModelError: ``folder`` holds neither, or what it holds cannot be read.
    """
    folder = Path(folder)
    if (folder / FILES[0]).is_file():
        return Adapter.load(folder)
    if (folder / PEFT_FILES[0]).is_file():
        return from_peft(folder)
    raise ModelError(
        f"{folder}: no adapter; expected a folder with {FILES[0]} (RUN/adapters/NAME/adapter) or with PEFT's {PEFT_FILES[0]}"
    )


def stack(adapters: Sequence[Adapter]) -> Adapter:
    """Return one adapter whose columns are those of all ``adapters`` side by side.

    R is the sum of their ranks. The factors are kept bit for bit; each adapter's scale stays with its block
    (``ranks``, ``scales``: what the gate maps take). A module that an adapter does not have gets a block of
    zeros.

    Raises:
        ModelError: Nothing to stack, different base models, modules of different shapes, or two with tokens of their own.
    """
    if not adapters:
        raise ModelError("no adapter to stack; give at least one")
    base = next((a.base for a in adapters if a.base), "")
    for adapter in adapters:
        adapter.check_base(base, "adapter to stack")
    tokens = [a.tokens for a in adapters if a.tokens is not None]
    if len(tokens) > 1:
        raise ModelError(
            f"{len(tokens)} of the adapters to stack have tokens of their own, which would share their numbers; stack one at most"
        )
    shapes: dict[str, tuple[int, int]] = {}
    for adapter in adapters:
        for path, (U, V) in adapter.factors.items():
            shape = (U.shape[0], V.shape[1])
            if shapes.setdefault(path, shape) != shape:
                raise ModelError(
                    f"{path}: matrices of {shapes[path]} and {shape}; stacked adapters must share one base "
                    "model"
                )
    factors = {}
    for path, (outputs, inputs) in shapes.items():
        parts = [
            a.factors.get(path) or (torch.zeros(outputs, a.rank), torch.zeros(a.rank, inputs))
            for a in adapters
        ]
        factors[path] = (torch.cat([U for U, _ in parts], dim=1), torch.cat([V for _, V in parts], dim=0))
    return Adapter(
        factors=factors,
        base=base,
        info={"stack": [dict(a.info) for a in adapters]},
        blocks=tuple(block for a in adapters for block in a.blocks),
        tokens=tokens[0] if tokens else None,
    )


def from_peft(folder: str | Path, base: str = "") -> Adapter:
    """Read a LoRA saved by PEFT (``adapter_config.json`` + ``adapter_model.safetensors``).

    ``scale`` is ``lora_alpha / r``, or ``lora_alpha / sqrt(r)`` with rsLoRA; where ``rank_pattern`` or
    ``alpha_pattern`` give a module another scale, the quotient is folded into its U, and smaller ranks are
    filled up with zeros.

    Raises:
        ModelError: A file is missing or damaged, or the adapter is not a plain LoRA; names the setting and
            the cure.
    """
    settings, tensors = _read_folder(folder, PEFT_FILES, ("peft_type",), FLOATS)
    settings = {"r": 8, "lora_alpha": 8, **settings}  # PEFT's defaults
    refuse_variants(settings, Path(folder) / PEFT_FILES[0])
    weights = Path(folder) / PEFT_FILES[1]
    pattern = re.compile(r"base_model\.model\.(?P<path>.+)\.(?P<name>lora_[AB])\.weight")
    pairs = {
        path: (p["lora_B"].float(), p["lora_A"].float())
        for path, p in _pairs(tensors, pattern, weights).items()
    }
    rank_of, alpha_of = _patterns(settings, "rank", "r"), _patterns(settings, "alpha", "lora_alpha")
    scales = {}
    for path, (_, V) in pairs.items():
        rank = rank_of.get(_pattern_key(rank_of, path), settings["r"])
        if rank != V.shape[0]:
            raise ModelError(
                f"{weights}: {path} has rank {V.shape[0]} where the configuration says {rank}; save it "
                "again with PEFT"
            )
        alpha = alpha_of.get(_pattern_key(alpha_of, path), settings["lora_alpha"])
        scales[path] = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    # Where a scale is folded into U, it is a multiple of the most frequent one that is not 0.
    listed = [scale for scale in scales.values() if scale] or [1.0]
    scale = max(listed, key=listed.count)
    widest = max(V.shape[0] for _, V in pairs.values())
    factors = {}
    for path, (U, V) in pairs.items():
        missing = widest - V.shape[0]
        factor = 1.0 if scales[path] == scale else scales[path] / scale
        factors[path] = (
            torch.nn.functional.pad(U * factor, (0, missing)),
            torch.nn.functional.pad(V, (0, 0, 0, missing)),
        )
    check_finite({f"{path}.lora_B at its scale": U for path, (U, _) in factors.items()}, str(weights))
    info = {"format": "peft", "base_model": settings.get("base_model_name_or_path") or ""}
    return Adapter(factors=factors, scale=scale, base=base, info=info)


def to_peft(
    adapter: Adapter,
    folder: str | Path,
    gates: Gates | None = None,
    base_name: str = "",
    revision: str = "",
    card: str = "",
) -> None:
    """Write the update at a fixed gate as an ordinary LoRA: ``lora_B = U diag(g)``, ``lora_A = V``.

    ``gates`` is ``[R]``, for all modules or by module path; None takes every block at its scale. Columns
    whose gate is 0 everywhere are left out, so r is the number of columns in use. ``base_name`` is the hub
    name or folder of the base model, as PEFT records it, ``revision`` its commit on the hub. ``folder`` becomes exactly this LoRA,
    with the text ``card`` as its ``README.md`` where there is one.

    Raises:
        ModelError: A gate of another shape, tokens of its own, or ``folder`` holds files of something else.
    """
    if adapter.tokens is not None:
        raise ModelError(NOT_PORTABLE)
    gates = adapter.gates() if gates is None else gates
    by_path = {path: gate_of(gates, path).detach().cpu().float() for path in adapter.factors}
    for path, gate in by_path.items():
        if gate.shape != (adapter.rank,):
            raise ModelError(
                f"{path}: gate {list(gate.shape)}, expected [{adapter.rank}]; a LoRA is written for one "
                "preference"
            )
    used = torch.stack(list(by_path.values())).ne(0).any(dim=0)
    used[0] |= not used.any()  # a LoRA needs a column, be it of zeros
    tensors = {}
    for path, (U, V) in adapter.factors.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = _plain(V[used])
        tensors[f"base_model.model.{path}.lora_B.weight"] = _plain((U * by_path[path])[:, used])
    rank = int(used.sum())
    settings = {
        "alpha_pattern": {},
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "revision": revision or None,
        "rank_pattern": {},
        "target_modules": _target_modules(adapter.factors),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    with atomic_path(folder, EXPORT) as temporary:
        _write_files(temporary, PEFT_FILES, settings, tensors)
        if card:
            write_text(temporary / "README.md", card)
        write_marker(temporary)


def _target_modules(paths: Mapping[str, object]) -> list[str]:
    """Return leaf names, as servers expect, when layers 0..n-1 all have them; otherwise the full paths."""
    layers: dict[str, set[str]] = {}
    for path in paths:
        number = re.search(r"\.(\d+)\.", path)
        if number is None:
            return sorted(paths)
        layers.setdefault(path[: number.start()] + path[number.end() - 1 :], set()).add(number[1])
    count = len(next(iter(layers.values())))
    if any(numbers != {str(n) for n in range(count)} for numbers in layers.values()):
        return sorted(paths)
    return sorted({path.rpartition(".")[2] for path in paths})


def _pattern_key(patterns: Mapping[str, object], path: str) -> str:
    """Return the first pattern that matches the end of ``path``, as PEFT does; ``path`` when none."""
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", path)), path)


def _patterns(settings: Mapping[str, Any], name: str, default: str) -> Mapping[str, Any]:
    """Return PEFT's ``NAME_pattern``; a rank or scale that is no finite number, or a rank below 1, is a ModelError."""
    patterns = settings.get(f"{name}_pattern") or {}
    values = patterns.values() if isinstance(patterns, Mapping) else [patterns]
    for value in [settings[default], *values]:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or (name == "rank" and value < 1):
            raise ModelError(
                f"{PEFT_FILES[0]}: {default} is {value!r}; expected a finite number, and a rank of at least 1; save the adapter "
                "again with PEFT"
            )
    for key in patterns if isinstance(patterns, Mapping) else ():
        try:
            re.compile(str(key))
        except re.error as error:
            raise ModelError(
                f"{PEFT_FILES[0]}: {name}_pattern: {key!r} is no regular expression ({error}); save the adapter again with PEFT"
            ) from error
    return patterns


def _pairs(
    tensors: Mapping[str, Tensor], pattern: re.Pattern[str], file: Path
) -> dict[str, dict[str, Tensor]]:
    """Return module path -> its two factors by name; an odd or single key is a ModelError."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        match = pattern.fullmatch(key)
        if match is None:
            raise ModelError(
                f"{file}: tensor {key!r} is not a factor of a linear layer; only low-rank updates of "
                "nn.Linear can be loaded"
            )
        pairs.setdefault(match["path"], {})[match["name"]] = value
    if not pairs:
        raise ModelError(f"{file}: holds no tensors; copy or save the adapter again")
    single = [path for path, pair in pairs.items() if len(pair) != 2]
    if single:
        raise ModelError(
            f"{file}: {single[0]} has one factor of two; the file is incomplete, copy or save the adapter "
            "again"
        )
    return pairs


def _read_folder(
    folder: str | Path, names: tuple[str, str], required: Sequence[str], formats: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return (settings, tensors in one of ``formats``) of an adapter's two files; ``required`` settings must be there."""
    settings_file, tensors_file = (Path(folder) / name for name in names)
    for file in (settings_file, tensors_file):
        check_readable(file, f"an adapter is a folder with {names[0]} and {names[1]} (pickles are not read)")
    try:
        settings = read_json(settings_file)
    except ParetuneError as error:
        raise ModelError(f"{folder}: the adapter is damaged ({error}); copy or save it again") from error
    tensors = read_tensors(tensors_file, formats)
    missing = [name for name in required if not isinstance(settings, dict) or name not in settings]
    if missing:
        raise ModelError(
            f"{settings_file}: no {missing[0]!r} in it; this is not the {names[0]} of an adapter"
        )
    return settings, tensors


def _write_files(
    folder: Path, names: tuple[str, str], settings: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    folder.mkdir()
    write_json(folder / names[0], settings)
    save_file(dict(tensors), folder / names[1], metadata={"format": "pt"})


def _plain(x: Tensor) -> Tensor:
    """Return a contiguous fp32 copy on the CPU: tensors that share memory cannot be written."""
    return x.detach().to("cpu", torch.float32, copy=True).contiguous()
