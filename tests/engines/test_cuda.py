import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cuda_doubles import FakeCuda, FakeDriver

from vqtrt.engines import cuda
from vqtrt.engines.cuda import DeviceArray, Repeated, Stream, check_gpu, pinned
from vqtrt.errors import VqtrtError


@pytest.fixture
def api(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "runtime", lambda: fake)
    return fake


def no_driver():
    """Whether the real cuda-python is here, and no driver for it."""
    try:
        return cuda.runtime().cudaGetDeviceCount()[0] == 35
    except VqtrtError:
        return False


@pytest.mark.skipif(not no_driver(), reason="has a CUDA driver, or no cuda-python")
def test_the_real_runtime_without_a_driver():
    with pytest.raises(VqtrtError, match=r"^no CUDA driver on this machine: .*onnxruntime.*$"):
        check_gpu()
    with pytest.raises(VqtrtError, match="no CUDA driver"):
        Stream()
    with pytest.raises(VqtrtError, match="no CUDA driver"):
        pinned((2, 3), np.float32)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (
            35,
            'too old .* CUDA 12.4.*update the driver, or .* CUDA 12 .*"cuda-python<13" '
            "tensorrt-cu12, or tensorrt-rtx-cu12",
        ),
        (100, "no NVIDIA GPU can be used here"),
        (3, "forked after CUDA was used: start it with multiprocessing's `spawn`"),
        (2, "out of GPU memory in cudaMalloc: a smaller --batch-size"),
        (700, r"CUDA failed in cudaMalloc \(cudaErrorFake: status 700\)"),
    ],
)
def test_what_cuda_refuses_is_one_line(api, status, message):
    api.driver, api.fails = 12040, {"cudaMalloc": status}
    with pytest.raises(VqtrtError, match=message) as error:
        DeviceArray(16)
    assert "\n" not in str(error.value)


def test_a_machine_without_a_gpu(api):
    check_gpu()
    api.devices = 0
    with pytest.raises(VqtrtError, match="no NVIDIA GPU"):
        check_gpu()
    api.driver = 0
    with pytest.raises(VqtrtError, match="no CUDA driver"):
        check_gpu()


def test_a_missing_cuda_python_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings", None)
    with pytest.raises(VqtrtError, match=r'cuda-python: pip install "vqtrt\[rtx\]"'):
        check_gpu()


def test_there_and_back(api):
    stream, memory = Stream(), DeviceArray(24)
    there, back = pinned((2, 3), np.float32), pinned((2, 3), np.float32)
    assert (there == 0).all()
    there[...] = np.arange(6).reshape(2, 3)
    stream.copy_in(memory.address, there)
    stream.copy_out(back, memory.address)
    assert (back == 0).all()
    stream.wait()
    np.testing.assert_array_equal(back, there)
    stream.zero(memory.address, 12)
    stream.copy_out(back, memory.address)
    stream.wait()
    np.testing.assert_array_equal(back, [[0, 0, 0], [3, 4, 5]])


def test_memory_is_freed_with_its_last_view_or_by_close(api):
    array = pinned((4, 2), np.int32)
    view = array[1:].reshape(-1)[2:]
    del array
    gc.collect()
    assert len(api.hosts) == 1
    assert (view == 0).all()
    del view
    gc.collect()
    assert not api.hosts
    one, other = DeviceArray(1000), DeviceArray(0)
    assert one.address % 256 == other.address % 256 == 0
    one.close()
    one.close()
    assert list(api.memory) == [other.address]
    del other
    gc.collect()
    assert not api.memory


def test_capture_runs_nothing_and_is_repeated_by_a_launch(api):
    stream, memory, array = Stream(), DeviceArray(4), pinned((1,), np.int32)
    back = pinned((1,), np.int32)

    def work():
        stream.copy_in(memory.address, array)
        stream.copy_out(back, memory.address)

    captured = stream.capture(work)
    array[0] = 7
    stream.wait()
    assert back[0] == 0
    for value in (8, 9):
        array[0] = value
        stream.launch(captured)
        stream.wait()
        assert back[0] == value


def test_a_capture_ends_when_its_work_fails(api):
    stream = Stream()

    def work():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream.capture(work)
    assert not api.capturing


def test_repeated_work_is_captured_the_second_time(api):
    stream, memory = Stream(), DeviceArray(256)
    repeated = Repeated(stream)
    queued = []

    def work():
        queued.append(1)
        stream.zero(memory.address, 4)

    seen = []
    for key in (1, 1, 1, 2, 1, 1, 1):
        before = len(queued)
        repeated.run(key, work)
        stream.wait()
        seen.append((repeated.captured, len(queued) - before))
    plain, captures, launches = (False, 1), (True, 1), (True, 0)
    assert seen == [plain, captures, launches, plain, plain, captures, launches]


def test_repeated_work_without_graphs(api):
    repeated = Repeated(Stream(), enabled=False)
    for _ in range(3):
        repeated.run(1, lambda: None)
    assert not repeated.captured
    assert "cudaStreamBeginCapture" not in api.calls


def test_work_that_cannot_be_captured_goes_on_plainly(api):
    stream, ran = Stream(), []
    repeated = Repeated(stream)
    api.fails = {"cudaStreamEndCapture": 901}
    for _ in range(4):
        repeated.run(1, lambda: ran.append(stream in api.capturing))
    assert not repeated.captured
    assert "cudaStreamEndCapture" in repeated.refused
    assert len(ran) == 5
    assert api.calls.count("cudaStreamBeginCapture") == 1


def test_a_capture_that_waits_is_spoilt(api: FakeCuda) -> None:
    stream, memory = Stream(), DeviceArray(4)

    def work() -> None:
        stream.zero(memory.address, 4)
        stream.wait()

    with pytest.raises(VqtrtError, match="CUDA failed in cudaStreamSynchronize"):
        stream.capture(work)
    assert not api.capturing


def test_it_is_asked_right_before_a_capture(api: FakeCuda) -> None:
    stream, answers = Stream(), [False, True]
    asked: list[int] = []

    def capturable() -> bool:
        asked.append(1)
        return answers[-1]

    repeated = Repeated(stream, capturable=capturable)
    repeated.run(1, lambda: None)
    assert not asked
    repeated.run(1, lambda: None)
    assert (len(asked), repeated.captured) == (1, True)
    answers.append(False)
    other = Repeated(stream, capturable=capturable)
    for _ in range(4):
        other.run(1, lambda: None)
    assert (other.captured, other.refused) == (
        False,
        "TensorRT says that this engine cannot be captured now",
    )
    assert len(asked) == 2  # once, and then no more


def test_gpus_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(devices=2)
    monkeypatch.setattr(cuda, "runtime", lambda: fake)
    monkeypatch.setattr(cuda, "driver", lambda: FakeDriver(fake))
    check_gpu(1)
    for device in (2, -1):
        with pytest.raises(VqtrtError, match=f"no GPU {device}: CUDA shows GPUs 0 to 1 here"):
            check_gpu(device)
    with cuda.on_device(1):
        stream, memory, array = Stream(), DeviceArray(4), pinned((1,), np.int32)
    assert fake.cudaGetDevice() == (0, 1)  # nothing uses GPU 0, and nothing begins to
    assert fake.contexts == {1}
    fake.cudaSetDevice(0)
    with cuda.on_device(1):
        assert fake.cudaGetDevice() == (0, 1)
    assert fake.cudaGetDevice() == (0, 0)
    array[0] = 5
    stream.copy_in(memory.address, array)
    stream.zero(memory.address, 4)
    captured = stream.capture(lambda: stream.copy_out(array, memory.address))
    stream.launch(captured)
    stream.wait()
    assert array[0] == 0
    with pytest.raises(VqtrtError, match="CUDA failed in cudaSetDevice"), cuda.on_device(7):
        pass


def test_memory_is_freed_on_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that uses no GPU may drop the last reference; CUDA must not begin to use GPU 0."""
    fake = FakeCuda(devices=2)
    monkeypatch.setattr(cuda, "runtime", lambda: fake)
    monkeypatch.setattr(cuda, "driver", lambda: FakeDriver(fake))
    with cuda.on_device(1):
        memory = [DeviceArray(16)]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(memory.clear).result()
    assert (fake.memory, fake.contexts) == ({}, {1})
