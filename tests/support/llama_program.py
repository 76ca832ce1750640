"""llama.cpp's own server, of the package xllamacpp, over a base model and blocks that were exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xllamacpp

from paretune.policies.gguf_export import Blocks


@contextmanager
def llama_server(folder: Path) -> Iterator[str]:
    """Serve an export with its base model in float32, with all blocks loaded and none applied; yield the address."""
    settings = xllamacpp.CommonParams()
    settings.model.path = str(folder / "base.gguf")
    settings.n_ctx, settings.n_parallel, settings.warmup = 256, 1, False
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.lora_init_without_apply = True
    settings.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(str(folder / f"{name}.gguf"), 1.0)
        for name in Blocks.read(folder).names
    ]
    server = xllamacpp.Server(settings)
    yield str(server.listening_address)
    del server
