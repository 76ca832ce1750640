"""A device that refuses float64 and bfloat16, as Apple's do: its tensors are other tensors, computed with on the CPU.

It takes the place of PyTorch that is left for devices of other makers ("privateuseone"), so that ``tensor.device`` is another
device everywhere, in C++ and in backward passes too, and an operation between it and the CPU fails as it does on a real one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

APPLE = "apple"
REFUSED = (torch.float64, torch.bfloat16)
CROSSING = ("aten::_to_copy", "aten::copy_", "aten::index.Tensor", "aten::index_put", "aten::index_put_")
"""Operations that take tensors of two devices."""


LIBRARY = torch.library.Library("aten", "IMPL")


class AppleTensor(torch.Tensor):
    """A tensor on the device; ``here`` is what it holds, on the CPU."""

    here: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> AppleTensor:
        if here.dtype in REFUSED:
            raise TypeError(f"Cannot convert a tensor to {here.dtype}: the device doesn't support it")
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=f"{APPLE}:0",
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def tolist(self) -> object:
        """Return the numbers; PyTorch's own does not know tensors of other classes."""
        return self.here.tolist()

    def __repr__(self) -> str:
        return f"AppleTensor({self.here!r})"


class _Factories(TorchDispatchMode):
    """Lets operations without a tensor of the device make one: ``torch.zeros(2, device="privateuseone")``."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    given = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in given if isinstance(tensor, AppleTensor)]
    device = kwargs.get("device")
    target = torch.device(device).type if device is not None else APPLE if there else "cpu"
    if not there and target != APPLE:
        return func(*args, **kwargs)
    name = func.name()
    strangers = [tensor for tensor in given if tensor.dim() and not isinstance(tensor, AppleTensor)]
    if there and strangers and not name.startswith(CROSSING):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {APPLE} and cpu")
    if name.startswith("aten::copy_") and not isinstance(args[0], AppleTensor):
        target = "cpu"
    inside = tree_map_only(AppleTensor, lambda tensor: tensor.here, (args, kwargs))
    args_inside, kwargs_inside = inside
    if device is not None:
        kwargs_inside = {**kwargs_inside, "device": torch.device("cpu")}
    if name.startswith("aten::_to_copy") and target == APPLE and kwargs.get("dtype") in REFUSED:
        raise TypeError(f"Cannot convert a tensor to {kwargs['dtype']}: the device doesn't support it")
    out = func(*args_inside, **kwargs_inside)
    if target == APPLE:
        out = tree_map_only(torch.Tensor, AppleTensor, out)
    return return_and_correct_aliasing(func, args, kwargs, out)


def _empty(size, stride, dtype=None, layout=None, device=None, pin_memory=None) -> AppleTensor:
    """Return memory of the device, for what makes it where no dispatch mode sees it: lists as indices, ``torch.tensor``."""
    return AppleTensor(torch.empty_strided(size, stride, dtype=dtype))


class _Module:
    """What PyTorch asks of ``torch.DEVICE``; its random numbers are the CPU's, as nothing is drawn on the device."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def device(self, number: object) -> AbstractContextManager[None]:
        return nullcontext()

    def manual_seed_all(self, seed: int) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16]

    def get_rng_state(self, number: object = 0) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, number: object = 0) -> None:
        torch.set_rng_state(state)


def _copied(source, target, non_blocking=False) -> torch.Tensor:
    """Copy numbers between the device and the CPU, there too."""
    inside = [each.here if isinstance(each, AppleTensor) else each for each in (target, source)]
    inside[0].copy_(inside[1])
    return target


@functools.cache
def register() -> None:
    """Let PyTorch know the device; before the first backward pass, which counts the devices there are."""
    _setup_privateuseone_for_python_backend(APPLE, _Module())
    LIBRARY.impl("empty_strided", _empty, "PrivateUse1")
    LIBRARY.impl("_copy_from", _copied, "PrivateUse1")


@contextmanager
def apple() -> Iterator[torch.device]:
    """Give this machine one such device for the length of the context."""
    from paretune.models import devices

    register()
    device = torch.device(f"{APPLE}:0")
    with (
        mock.patch.object(devices, "KINDS", (*devices.KINDS, APPLE)),
        mock.patch.object(torch.accelerator, "current_accelerator", lambda check_available=False: device),
        mock.patch.object(torch.accelerator, "device_count", lambda: 1),
        _Factories(),
    ):
        devices.computes.cache_clear()
        try:
            yield device
        finally:
            devices.computes.cache_clear()
