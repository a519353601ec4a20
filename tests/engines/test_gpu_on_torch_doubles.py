"""Some tests of `test_gpu_on_torch.py` without a GPU: torch works on the memory of `FakeCuda`."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch_engine_doubles
from cuda_doubles import FakeCuda, FakeDriver, Queued, array_at
from engines import test_gpu_on_torch
from engines.test_gpu import test_a_row_is_captured  # noqa: F401
from engines.test_gpu_on_torch import model, test_audio_of_the_loop_on_the_gpu  # noqa: F401
from torch_engine_doubles import TorchTensorRT

from vqtrt.config.location import ModelLocation
from vqtrt.engines import cuda


class HostQueue:
    """As `TorchQueue`, in the queues of a `FakeCuda`."""

    def __init__(self, api: FakeCuda) -> None:
        self._api = api

    def tensor(self, address: int, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        return torch.from_numpy(array_at(address, shape, dtype))

    def run(self, stream_handle: int, work: Callable[[], None]) -> bool:
        return self._api._queue(stream_handle, Queued(work)) == 0


@contextlib.contextmanager
def on_the_host(run: Path) -> Iterator[TorchTensorRT]:
    api = FakeCuda()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "runtime", lambda: api)
        patch.setattr(cuda, "driver", lambda: FakeDriver(api))
        how = (api, lambda: HostQueue(api))
        with torch_engine_doubles.torch_for_tensorrt(run, *how) as module:
            yield module


@pytest.fixture(scope="module", params=["tensorrt-rtx", "tensorrt"])
def package(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def module(model: ModelLocation, monkeypatch: pytest.MonkeyPatch) -> Iterator[TorchTensorRT]:  # noqa: F811
    assert model.run is not None
    monkeypatch.setattr(test_gpu_on_torch, "torch_for_tensorrt", on_the_host)
    with on_the_host(model.run) as found:
        yield found
