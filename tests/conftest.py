"""Fixtures shared by the tests; heavy imports stay inside, so that tests of numbers alone start at once."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from support import measuring
from support.tiny import make_tiny_llama

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from paretune.models.language_model import LanguageModel

# Models here are tiny, and a process with one thread can be forked.
os.environ["OMP_NUM_THREADS"] = "1"

# The same examples in every run, however slow the machine: what passes here passes there.
settings.register_profile(
    "paretune", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("paretune")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with slow tests first, so that several processes end at about the same time."""
    slow = {
        item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("model")
    }
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Keep the garbage collector off all that is imported by now: it would look through millions of objects in every test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def measured(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Measure the speed of this machine once."""
    os.environ[measuring.FOLDER] = str(tmp_path_factory.mktemp("rates"))
    measuring.keep()


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """Give loggers their levels back after a command with ``-v`` or ``-q`` in the process of the tests."""
    loggers = [logging.getLogger(n) for n in ("paretune", "accelerate", "huggingface_hub", "transformers")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., LlamaForCausalLM]:
    """Return :func:`make_tiny_llama`: every call gives a fresh model."""
    return make_tiny_llama


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """Return a tiny random Llama with a tokenizer, loaded as a user's model is, with a cache folder of its own."""
    from paretune.models.language_model import load
    from support.world import write_model

    os.environ["PARETUNE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    return load(str(write_model(tmp_path_factory.mktemp("model"))), "float32", "cpu")
