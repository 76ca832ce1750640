"""From a name to a base model in memory, whole or not at all: each way in which it cannot be used ends in one message."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from paretune.core.errors import ModelError, ParetuneError, reason_of
from paretune.core.files import atomic_path, cache_folder, expanded, file_digest, fingerprint, write_text
from paretune.core.folder_form import EXPORT, write_marker
from paretune.core.tensor_file import check_readable, tensor_formats
from paretune.models.architecture import check_decoder
from paretune.models.embedded import EMBEDDED, EMBEDDED_HUB, EMBEDDED_INSTALL, embedded_gguf
from paretune.models.gguf_once import conversion_of, read_once
from paretune.models.hub import NOWHERE, HubPlace, other_commits, place_of, snapshot, weight_files
from paretune.models.hub_reach import check_hub
from paretune.models.quantised import (
    check_files_finite,
    chosen,
    hold,
    loading_options,
    refusal,
    say_share,
    stored_as,
)
from paretune.models.tensors import check_finite

EXPECTED = f"Expected {EMBEDDED!r}, a hub name that can be reached from here, a folder with safetensors weights, or a .gguf file"
_JSON = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "model.safetensors.index.json",
)
_READ = (*_JSON, "*.safetensors", "chat_template.jinja", "tokenizer.model", "vocab.txt", "merges.txt")
"""Files of a model's folder that are read; others in it are nobody's business."""
_WHOLE = re.compile(r"(^|\.)(layers|h|blocks)\.\d+\.")
"""Keys of parameters inside the layers: one that the model does not take means another model than the config describes."""
_BUFFERS = re.compile(r"(inv_freq|masked_bias|attn\.bias|attention\.bias|rotary_emb\.\w+)$")
"""Buffers of old checkpoints, which the model computes itself."""


@dataclass(frozen=True)
class Held:
    """How a model is held in memory.

    Attributes:
        kind: Number format.
        device: Device for which it is read. A quantised model is put there at once, another stays on the CPU.
        quantization: How the frozen matrices are held, see :data:`paretune.models.quantised.Quantization`.
    """

    kind: torch.dtype
    device: torch.device
    quantization: str = "auto"


def read_model(source: Path, name: str, how: Held) -> tuple[str, PreTrainedModel, PreTrainedTokenizerBase]:
    """Return how the matrices of the model of ``source`` are held, the model and its tokenizer.

    Args:
        source: The folder, see :func:`locate`.
        name: Name as the user gave it, for messages.
        how: How it is to be held.

    Raises:
        ModelError: The model or a part of it is missing, unreadable, cut or damaged, its parameters are not finite or quantised in
            a way that cannot be trained on, its architecture is not known, or its tokenizer has more tokens than it has embeddings.
    """
    plain: dict[str, Any] = {"trust_remote_code": False}
    check_folder(source)
    try:
        config = AutoConfig.from_pretrained(source, **plain)
        check_decoder(config, name)
        stored = stored_as(config, name)
        if stored == "none":
            _refuse_unnamed_formats(source)
        held = chosen(how.quantization, stored, name)
        if held != "none":
            check_files_finite(source, name)
        plain |= loading_options(config, held, stored, how.kind, how.device)
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=how.kind,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **plain,
        )
        _refuse_another_model(name, report)
        hold(model)
        if held != "none":
            say_share(model, name)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except ParetuneError:
        raise
    except Exception as error:
        raise ModelError(f"cannot load the model {name!r}: {reason_of(error)}. {_cure_of(source)}") from error
    check_finite(dict(model.named_parameters()), name)
    rows = model.get_input_embeddings().weight.shape[0]
    _check_ends(source, getattr(model.generation_config, "eos_token_id", None), rows)
    most = max(tokenizer.get_vocab().values(), default=-1) + 1
    if most > rows:
        raise ModelError(
            f"{name}: the tokenizer has tokens up to number {most - 1}, but the model has embeddings of {rows} tokens; give the "
            "tokenizer that belongs to the model, or enlarge the model with resize_token_embeddings and save it"
        )
    return held, model, tokenizer


def _check_ends(source: Path, ends: object, rows: int) -> None:
    """Raise a ModelError unless each token that ends an answer is one of the ``rows`` tokens; some configs say none by -1."""
    for end in ends if isinstance(ends, list) else [] if ends is None else [ends]:
        if isinstance(end, bool) or not isinstance(end, int) or not -1 <= end < rows:
            named = [file for file in ("generation_config.json", "config.json") if (source / file).is_file()]
            raise ModelError(
                f"{source / named[0]}: eos_token_id {ends!r:.60}: expected the number of a token, from 0 to {rows - 1}, or a list "
                "of these; write the number of the token that ends an answer, or take the file of the model itself"
            )


def _cure_of(source: Path) -> str:
    """Return what to do about a model that cannot be loaded."""
    if not (source / "config.json").is_file():
        return EXPECTED
    return f"Check config.json and the files of the tokenizer in {source}, or copy or download them again"


def check_folder(folder: Path) -> None:
    """Check the files of a model's folder before anything is loaded.

    Raises:
        ModelError: There are no weights in safetensors files, or a file is missing, unreadable, a stand-in of git-lfs, empty, cut
            or damaged; the message names the file and the cure.
    """
    check_readable(
        folder / "config.json", "expected the folder of a model, with config.json and *.safetensors"
    )
    for pattern in _READ:
        for file in sorted(folder.glob(pattern)):
            check_readable(file)
    for file in (folder / name for name in _JSON):
        if file.is_file() and not isinstance(_json(file), dict):
            raise ModelError(f"{file}: holds no settings; copy or download it again")
    formats: dict[str, str] = {}
    for file in sorted(folder.glob("*.safetensors")):
        formats |= tensor_formats(file)
    if not formats:
        raise ModelError(
            f"{folder}: no *.safetensors file with weights; other formats are not read because they can run code. Load the model "
            "once with transformers and save it with save_pretrained"
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        parts = _json(index).get("weight_map")
        for part in sorted(set(map(str, parts.values()))) if isinstance(parts, dict) else ():
            check_readable(folder / part, f"{index.name} names it; copy or download it again")


def _refuse_unnamed_formats(folder: Path) -> None:
    """Raise a ModelError where weights are no floats, though the config says nothing of a quantisation."""
    for name, kind in (
        (n, k) for f in sorted(folder.glob("*.safetensors")) for n, k in tensor_formats(f).items()
    ):
        if kind not in ("F64", "F32", "F16", "BF16") and name.endswith(
            ("weight", "bias", "qweight", "weight_packed")
        ):
            raise ModelError(refusal(str(folder), f"{name} is in the number format {kind}"))


def _json(file: Path) -> Any:
    """Return the content of a model's JSON file; a damaged one is a ModelError."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: is no valid JSON ({error}); copy or download it again") from error


def _refuse_another_model(name: str, report: dict[str, Any]) -> None:
    """Raise a ModelError where the weights are not those of the model that the config describes."""
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{name}: {len(missing)} weights are missing, such as {', '.join(missing[:3])}, and would be random numbers; the "
            "checkpoint is not whole, or config.json is that of another model: copy or download both again"
        )
    wrong = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report["mismatched_keys"])
    surplus = sorted(
        key for key in report["unexpected_keys"] if _WHOLE.search(key) and not _BUFFERS.search(key)
    )
    if wrong or surplus:
        what = "have another shape" if wrong else "are not used"
        raise ModelError(
            f"{name}: weights such as {', '.join((wrong or surplus)[:3])} {what}: config.json describes another model than the "
            "checkpoint holds; copy or download both again"
        )


def locate(name: str, revision: str | None = None) -> Path:
    """Return the folder to load for ``name``: a model of the hub is in the hub's cache, a GGUF file is converted once.

    Args:
        name: The embedded name, a hub name, a folder, or a GGUF file.
        revision: The branch, tag or commit on the hub.

    Raises:
        ModelError: There is no such model and the hub does not answer, or ``revision`` is given with one that is not on the hub.
    """
    packaged = embedded_gguf() if name == EMBEDDED else None
    path = packaged or expanded(name, "model")
    here = packaged is not None or name.endswith(".gguf") or path.exists()
    if here and revision:
        raise ModelError(
            f"revision {revision!r}: {name} is on this machine and has no revisions; leave revision out, or give the model's name "
            "on the hub"
        )
    if here:
        return _converted(path) if path.suffix == ".gguf" else path
    embedded = name == EMBEDDED
    name = EMBEDDED_HUB if embedded else name
    cure = f"{EMBEDDED} comes as a package too: {EMBEDDED_INSTALL}" if embedded else EXPECTED
    check_hub(name, cure, revision)
    return snapshot(name, revision, EXPECTED)


def _converted(gguf: Path) -> Path:
    """Dequantise a GGUF file to safetensors in the cache folder, once, and return that folder."""
    check_readable(gguf, "expected a GGUF file")
    folder = conversion_of(gguf)
    if folder.is_dir():
        return folder
    with gguf.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(f"{gguf}: is no GGUF file; copy or download it again")
    try:
        from transformers import GgufConfig

        options: Any = {"gguf_file": gguf.name}
        # Its progress bar knows no switch, and does not fall silent by itself where nobody looks.
        with read_once(), nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, **options
            )
    except ImportError as error:
        raise ModelError(
            f"{gguf}: converting a GGUF file needs more packages ({error}): pip install 'paretune[gguf]'"
        ) from error
    except Exception as error:
        raise ModelError(
            f"{gguf}: cannot convert the GGUF file ({reason_of(error)}); it is cut or damaged, or of an architecture that "
            "transformers does not convert: copy or download it again, or give the model as a folder with safetensors weights"
        ) from error
    with atomic_path(
        folder, EXPORT, keep_equal=True
    ) as temporary:  # another process may have made it meanwhile
        temporary.mkdir()
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_marker(temporary, marks=False)
    return folder


@dataclass(frozen=True)
class Origin:
    """Where a loaded model comes from, and which weights it has.

    Attributes:
        folder: The folder that was read, which transformers reads too; "." where nothing was.
        weights: Identity of the weights, wherever they lie: the hash of the safetensors files. "" where nothing was read.
        earlier: What earlier versions called these weights: the hub's name and a commit, or the hash of all files in the folder.
        hub: The repository and the commit, where they are known.
    """

    folder: Path = Path()
    weights: str = ""
    earlier: tuple[str, ...] = ()
    hub: HubPlace = NOWHERE


UNREAD = Origin()
"""The origin of a model that was not read from files."""


def origin_of(folder: Path) -> Origin:
    """Return the origin of the model in ``folder``; hashes are computed once and kept in the cache folder."""
    weights = _hash(weight_files(folder))
    place = place_of(folder)
    earlier = [] if place.name else [_hash(sorted(folder.glob("*.safetensors")))]
    if place.name:
        same = [other for other in other_commits(folder) if _hash(weight_files(other)) == weights]
        earlier = [f"{place.name}@{commit}" for commit in (place.commit, *(other.name for other in same))]
    return Origin(folder, weights, tuple(each for each in earlier if each != weights), place)


def _hash(files: Sequence[Path]) -> str:
    return fingerprint([_digest(file) for file in files])


def _digest(file: Path) -> str:
    """Return the SHA-256 of a file, which the cache folder keeps while the file is the same."""
    blob = file.resolve()
    if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return blob.name  # the hub's cache names large files by their SHA-256
    stat = file.stat()
    memory = cache_folder() / "hashes" / fingerprint(str(blob), stat.st_size, stat.st_mtime_ns)
    # What is kept may be lost to a full or failing disk, and must not become another identity of the model: a mark tells.
    kept = ""
    with suppress(OSError, ValueError):  # there is none, or it cannot be read: it is computed again
        kept = memory.read_text(encoding="ascii")
    digest, _, mark = kept.partition(" ")
    if mark and mark == fingerprint(digest):
        return digest
    digest = file_digest(file)
    write_text(memory, f"{digest} {fingerprint(digest)}")
    return digest
