"""A user's modules as they are exported: unwrapped, copied to the CPU, in eval mode, repeatable.

What hands a module to several GPUs or compiles it stands around it, and the exporter cannot trace
it. A module that draws noise, or whose output depends on the rest of the batch, is no tokenizer:
the same image would get other codes each time.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vqtrt.errors import VqtrtError

_WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",
}
"""Classes of torch that stand around a module, and where they keep it; `torch.compile` is last."""
_SHARDED = ("FullyShardedDataParallel", "FSDPModule")
_ALONE = 1e-3
"""How far vectors of an image may be from those that it gets alone, of their largest: kernels for
another batch size round otherwise."""


def copied(module: Any, what: str) -> nn.Module:
    """A copy on the CPU, unwrapped, in eval mode, that needs no gradients. Raises `VqtrtError`."""
    if not isinstance(module, nn.Module):
        raise VqtrtError(f"the {what} is a {type(module).__name__}: pass a torch.nn.Module")
    module = _unwrapped(module)
    for part in module.modules():
        _refuse_untraceable(part, what)
    try:
        # What is inside of wrappers takes their places in the copy, innermost first.
        copies: dict[int, Any] = {}
        for part in reversed(list(module.modules())):
            if (inner := _unwrapped(part)) is not part:
                copies[id(part)] = copy.deepcopy(inner, copies)
        made: nn.Module = copy.deepcopy(module, copies).cpu().eval().requires_grad_(False)
    except Exception as error:
        # Modules raise what they like, RuntimeError for old weight_norm.
        raise VqtrtError(f"the {what} cannot be copied ({one_line(error)})") from error
    for name, part in made.named_modules():
        _refuse_training(name or type(part).__name__, part, what)
    for tensor in [*made.parameters(), *made.buffers()]:
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise VqtrtError(
                f"the {what} has weights of {tensor.dtype}: pass it in float32 ({what}.float())"
            )
    return made


def check_repeats(run: Callable[[Tensor], Tensor], batch: Tensor, what: str) -> None:
    """Raise `VqtrtError` if a module gives something else the second time, or to a part alone.

    `batch` has two rows at least, which differ. The caller's random numbers stay as they are.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        first, second = run(batch), run(batch)
        try:
            alone = run(batch[:1])
        except Exception as error:
            raise VqtrtError(
                f"the {what} takes a batch of 2, but not of 1 ({one_line(error)})"
            ) from error
    if not (first.isfinite().all() and second.isfinite().all()):
        raise VqtrtError(f"the {what} gives values that are not finite: it cannot be exported")
    if not torch.equal(first, second):
        raise VqtrtError(
            f"the {what} gives something else each time that it runs, in eval mode too: it draws "
            "noise, or keeps dropout on; make it repeat, for example with noise of 0"
        )
    same = first[:1].shape == alone.shape
    if not same or (first[:1] - alone).abs().max() > _ALONE * first.abs().max():
        raise VqtrtError(
            f"the {what} gives an image something else alone than in a batch: its codes would "
            "depend on the other images; look for statistics over the batch, and for fixed sizes"
        )


def one_line(error: BaseException) -> str:
    """The first line of the error that was at the root of another."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _unwrapped(module: nn.Module) -> nn.Module:
    """What stands inside of wrappers, of several too."""
    cls = type(module)
    while cls.__name__ in _WRAPPERS and cls.__module__.startswith("torch."):
        module = module.get_submodule(_WRAPPERS[cls.__name__])
        cls = type(module)
    return module


def _refuse_untraceable(part: nn.Module, what: str) -> None:
    if isinstance(part, torch.jit.ScriptModule):
        raise VqtrtError(
            f"the {what} is or holds a TorchScript module, which cannot be exported to ONNX: pass "
            "the module that was scripted or traced, with the same weights"
        )
    if any(cls.__name__ in _SHARDED for cls in type(part).__mro__):
        raise VqtrtError(
            f"the {what} is sharded over processes (FSDP): load its full state dict into a module "
            "that is not, and pass that"
        )


def _refuse_training(name: str, part: nn.Module, what: str) -> None:
    if part.training:
        raise VqtrtError(
            f"the {what} stays in training mode: eval() does not reach {name}; make it follow"
        )
    if isinstance(part, _BatchNorm) and part.running_mean is None:
        raise VqtrtError(
            f"the {what} has a {type(part).__name__} without running statistics ({name}): codes "
            "would depend on the rest of the batch; train it with track_running_stats=True"
        )
