"""llama.cpp's HTTP server from the package xllamacpp, in a process of its own; needs nothing of this repository.

    python benchmarks/generation/llama_server.py BASE.gguf [LORA.gguf ...] [--slots 1] [--threads 2] [--exact]

Prints the address it listens on and the package's version, and serves until its standard input is closed. ``--exact``
computes attention in float32: no flash attention, and keys and values in float32.
"""

from __future__ import annotations

import argparse
import sys

CONTEXT = 1024
"""Tokens that a slot has room for."""


def fill(place: object, **values: object) -> None:
    """Set attributes."""
    for name, value in values.items():
        setattr(place, name, value)


def main() -> None:
    """Serve until standard input is closed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base")
    parser.add_argument("loras", nargs="*")
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--exact", action="store_true")
    arguments = parser.parse_args()
    try:
        import xllamacpp
    except ImportError:
        sys.exit("xllamacpp is not installed here: pip install xllamacpp")
    settings = xllamacpp.CommonParams()
    settings.model.path = arguments.base
    for place in (settings.cpuparams, settings.cpuparams_batch):
        fill(place, n_threads=arguments.threads)
    fill(
        settings,
        n_ctx=CONTEXT * arguments.slots,
        n_parallel=arguments.slots,
        port=arguments.port,
        lora_adapters=[xllamacpp.CommonAdapterLoraInfo(lora, 1.0) for lora in arguments.loras],
        lora_init_without_apply=True,
    )
    if arguments.exact:
        plain = xllamacpp.ggml_type.GGML_TYPE_F32
        off = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        fill(settings, flash_attn_type=off, cache_type_k=plain, cache_type_v=plain)
    server = xllamacpp.Server(settings)
    print(server.listening_address, xllamacpp.__version__, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
