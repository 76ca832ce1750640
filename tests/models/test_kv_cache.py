"""The name under which a forward pass takes its cache: transformers 5.24 changed it, and drops the old one in 5.40."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from paretune.models.kv_cache import given_cache, growing_cache
from support.tiny import make_tiny_llama


class OfNow:
    def forward(self, input_ids: Any = None, cache: Any = None) -> None: ...


class OfBefore:
    def forward(self, input_ids: Any = None, past_key_values: Any = None) -> None: ...


@pytest.mark.parametrize(("kind", "name"), [(OfNow, "cache"), (OfBefore, "past_key_values")])
def test_the_cache_goes_by_the_name_that_the_model_has_for_it(kind: Any, name: str) -> None:
    cache: Any = object()
    assert given_cache(kind(), cache) == {name: cache}


def test_the_installed_models_take_it_without_a_warning() -> None:
    model = make_tiny_llama(0)
    cache, ids = growing_cache(model.config), torch.tensor([[1, 2, 3]])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        first = model(input_ids=ids[:, :2], use_cache=True, **given_cache(model, cache)).logits
        second = model(input_ids=ids[:, 2:], use_cache=True, **given_cache(model, cache)).logits
        whole = model(input_ids=ids).logits
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-5, rtol=1e-5)
    assert cache.get_seq_length() == 3
