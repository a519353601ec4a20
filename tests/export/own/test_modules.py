import re
import warnings

import pytest
import torch
from torch import Tensor, nn

from vqtrt.errors import VqtrtError
from vqtrt.export.own.modules import check_repeats, copied


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5))


def parallel(module: nn.Module) -> nn.Module:
    """As DistributedDataParallel is, which needs a group of processes."""
    wrapper = nn.Module.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = module
    return wrapper


def compiled(module: nn.Module) -> nn.Module:
    wrapped: nn.Module = torch.compile(module, backend="eager")
    return wrapped


WRAPPED = {
    "compiled": compiled,
    "data parallel": nn.DataParallel,
    "distributed": parallel,
    "both": lambda module: compiled(parallel(module)),
    "parts": lambda module: nn.Sequential(compiled(module[0]), *module[1:]),
    "parts of parts": lambda module: nn.Sequential(nn.Sequential(parallel(module))),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_are_taken_off(name: str) -> None:
    module = net()
    images = torch.rand(2, 3, 8, 8)
    expected = net().eval()(images)
    wrapped = WRAPPED[name](module)
    kinds = [type(part) for part in wrapped.modules()]
    made = copied(wrapped, "encoder")
    names = {type(part).__name__ for part in made.modules()}
    assert names <= {"Sequential", "Conv2d", "BatchNorm2d", "Dropout"}
    torch.testing.assert_close(made(images), expected)
    # The caller's stays as it was.
    assert [type(part) for part in wrapped.modules()] == kinds
    assert module.training
    assert next(module.parameters()).requires_grad


def test_a_script_module_is_refused_in_one_line() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Conv2d(3, 4, 1))
        traced = torch.jit.trace(nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 4, 4))
    for module in (scripted, traced, nn.Sequential(scripted)):
        with pytest.raises(VqtrtError, match="is or holds a TorchScript module") as caught:
            copied(module, "encoder")
        assert "\n" not in str(caught.value)


def test_a_sharded_module_is_refused() -> None:
    sharded = type("FullyShardedDataParallel", (nn.Conv2d,), {})(3, 4, 1)
    with pytest.raises(VqtrtError, match="the decoder is sharded"):
        copied(nn.Sequential(sharded), "decoder")


class Stubborn(nn.Dropout):
    """Stays in training mode, as some do to draw samples at inference."""

    def train(self, mode: bool = True) -> "Stubborn":
        del mode
        return super().train(True)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Stubborn(0.5), r"stays in training mode: eval\(\) does not reach 1"),
        (
            nn.BatchNorm2d(4, track_running_stats=False),
            r"has a BatchNorm2d without running statistics \(1\)",
        ),
    ],
)
def test_what_eval_mode_does_not_settle(part: nn.Module, message: str) -> None:
    with pytest.raises(VqtrtError, match=message):
        copied(nn.Sequential(nn.Conv2d(3, 4, 1), part), "encoder")


class Does(nn.Module):
    """Does what a function does."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.function(images)
        return result


REFUSED = {
    "noise": (lambda x: x + 0.01 * torch.randn_like(x), "else each time that it runs"),
    "scaled noise": (lambda x: x * torch.rand(x.shape[0], 1, 1, 1), "else each time that it runs"),
    "dropout": (nn.functional.dropout, "draws noise, or keeps dropout on"),
    "batch mean": (lambda x: x - x.mean(0, keepdim=True), "something else alone"),
    "batch norm": (lambda x: nn.functional.batch_norm(x, None, None, training=True), "else alone"),
    "fixed batch": (lambda x: x.reshape(2, -1), "something else alone"),
    "batch of two": (lambda x: x + torch.zeros(x.shape[0] - 1, 1, 1, 1).expand(1, -1, 8, 8), ""),
    "not finite": (lambda x: x / 0, "not finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_repeat_is_said_as_such(name: str) -> None:
    function, message = REFUSED[name]
    with pytest.raises(VqtrtError, match=f"the decoder .*{message}"):
        check_repeats(Does(function), torch.rand(2, 3, 8, 8) + 0.1, "decoder")


def test_what_repeats_is_taken_and_no_random_number_is_used() -> None:
    module = net()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    check_repeats(module.eval(), torch.rand(2, 3, 8, 8, generator=torch.Generator()), "encoder")
    check_repeats(Does(lambda x: x + 0 * torch.randn_like(x)), torch.ones(2, 3), "encoder")
    torch.testing.assert_close(torch.rand(4), expected)


def test_what_is_no_module() -> None:
    with pytest.raises(VqtrtError, match=re.escape("the encoder is a function: pass a torch.nn")):
        copied(lambda x: x, "encoder")
