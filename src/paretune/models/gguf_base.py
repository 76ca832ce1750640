"""A base model's GGUF file beside its LoRAs: copied, or with its matrices in another number format.

llama.cpp rounds the inputs of quantised matrices too, while a policy is trained on and measured with dequantised ones. A base
model in f32 gives the policy's own numbers.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from paretune.core.errors import ModelError, reason_of
from paretune.models.gguf_file import BaseForm, Entry, write_tensors


def write_base(source: Path, target: Path, form: BaseForm) -> None:
    """Write a model's GGUF file with all matrices in one number format; vectors are in float32, all else is as it was.

    Args:
        source: GGUF file of a model.
        target: File to write.
        form: Number format of the matrices, or ``"copy"`` for the file as it is.

    Raises:
        ModelError: The file cannot be read, or has numbers in a format that cannot be read here.
    """
    if form == "copy":
        shutil.copyfile(source, target)
        return
    import gguf

    try:
        reader = gguf.GGUFReader(source)
        writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
        for name, field in reader.fields.items():
            if name.startswith("GGUF.") or name in _ANEW:
                continue
            items = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=items)
        entries = [
            Entry(
                tensor.name,
                tuple(tensor.shape.tolist()[::-1]),
                partial(gguf.dequantize, tensor.data, tensor.tensor_type),
            )
            for tensor in reader.tensors
        ]
        write_tensors(writer, entries, form)
    except ModelError:
        raise
    except (KeyError, ValueError, NotImplementedError) as error:
        raise ModelError(f"{source}: cannot be written as {form} ({reason_of(error)})") from error


_ANEW = ("general.architecture", "general.file_type", "general.quantization_version")
