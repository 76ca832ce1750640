"""A base model's GGUF file beside its LoRAs: copied, or with its matrices in another number format.

llama.cpp rounds the inputs of quantised matrices too, while a policy is trained on and measured with dequantised ones. A base
model in f32 gives the policy's own numbers.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from paretune.core.errors import ModelError, reason_of

BaseForm = Literal["copy", "f32", "f16", "bf16"]
BASE_FORMS: tuple[str, ...] = get_args(BaseForm)


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

    kind, plain = gguf.GGMLQuantizationType[form.upper()], gguf.GGMLQuantizationType.F32
    try:
        reader = gguf.GGUFReader(source)
        writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
        for name, field in reader.fields.items():
            if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
                continue
            items = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=items)
        writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[form]])
        kinds = [kind if len(tensor.shape) > 1 else plain for tensor in reader.tensors]
        for tensor, stored in zip(reader.tensors, kinds, strict=True):
            size = int(tensor.n_elements) * gguf.GGML_QUANT_SIZES[stored][1]
            shape = tensor.shape.tolist()[::-1]
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), size, raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, stored in zip(reader.tensors, kinds, strict=True):  # one by one, as all may be large
            writer.write_tensor_data(gguf.quantize(gguf.dequantize(tensor.data, tensor.tensor_type), stored))
        writer.close()
    except (KeyError, ValueError, NotImplementedError) as error:
        raise ModelError(f"{source}: cannot be written as {form} ({reason_of(error)})") from error


_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16"}
