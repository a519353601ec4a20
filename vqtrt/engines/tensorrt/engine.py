"""TensorRT and TensorRT for RTX, on an NVIDIA GPU, from the engines that a bundle holds.

Memory is CUDA's own, through cuda-python; torch is not needed. Loading an engine is running code:
`plans.read_plan` checks its bytes first, and that this user built them.
"""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import prod
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from vqtrt.engines.base import Binding, BoundGraph, BundleEngine, Graph
from vqtrt.engines.cuda import (
    DeviceArray,
    Repeated,
    Stream,
    check_gpu,
    graphs_wanted,
    on_device,
    pinned,
)
from vqtrt.engines.lengths import padded_batch
from vqtrt.engines.opened import Opened
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.engines.tensorrt.bound import Known, TensorRTBound
from vqtrt.engines.tensorrt.context import LoadedPlan, Shape
from vqtrt.engines.tensorrt.loop import DeviceRowLoop
from vqtrt.engines.tensorrt.plan_info import PlanInfo, varying_sizes
from vqtrt.engines.tensorrt.plans import (
    Here,
    Infos,
    find_plan,
    read_infos,
    read_plan,
    rebuild,
    runtime_cache,
)
from vqtrt.engines.tensorrt.runtime_cache import RuntimeCache
from vqtrt.engines.tensorrt.step_loop import DeviceStepLoop
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle, TensorSpec

_SETS = 2
"""Runs of an open graph that are under way at once."""


class TensorRTEngine(BundleEngine):
    """A bundle's engines in the package `options.engine`, on the GPU of `options.device`.

    `options.trust_engines` loads engines that this user did not build, which run code of whoever
    did. `graphs`
    False queues everything plainly, without CUDA graphs; None does so if `$VQTRT_CUDA_GRAPHS` is
    0. Raises `VqtrtError` if the package, the driver or the GPU is missing or does not fit
    together, and for an engine that is missing, does not fit, or is not trusted.
    """

    shape_specialized = True

    def __init__(
        self, bundle: Bundle, options: EngineOptions, *, graphs: bool | None = None
    ) -> None:
        super().__init__(bundle, options)
        self.package = trt_package.load(options.engine)
        self.device = device = options.device
        check_gpu(device)
        gpu = trt_package.device(device)
        self.package.check_device(gpu)
        self.name: str = self.package.name
        self.graphs = graphs_wanted() if graphs is None else graphs
        self._here: Here = {
            "package": self.package.name,
            "version": self.package.version,
            "gpu": gpu.name if gpu else None,
            "capability": gpu.capability if gpu else None,
            "trusted": options.trust_engines,
        }
        self._build = rebuild(bundle, self.package.name, self.precision)
        self._infos: Infos = read_infos(bundle, self._build)
        self._loaded: Opened[Path, LoadedPlan] = Opened()
        self._known: Known = WeakValueDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        """Plans and the package's module stay behind: a copy loads its own."""
        return partial(type(self), graphs=self.graphs), (self.bundle, self.options)

    def plan(self, graph: str, sizes: Mapping[str, int]) -> LoadedPlan:
        """The engine of a graph that takes these sizes, loaded once."""
        path, info = self._find(graph, sizes)

        def load() -> LoadedPlan:
            cache = runtime_cache(path)
            return LoadedPlan(
                self.package,
                read_plan(self.bundle, path, **self._here),
                path,
                cache=RuntimeCache(cache, trusted=self.options.trust_engines, device=self.device),
                rebuild=self._build,
                few_shapes=varying_sizes(info, self.spec(graph)) <= {"batch"},
                device=self.device,
            )

        return self._loaded.get(path, load)

    def largest_batch(self, graph: str, sizes: Mapping[str, int]) -> int:
        """The largest batch that an engine of a graph takes at these sizes.

        Raises `VqtrtError` if there is no such engine, or the graph's batch is not free.
        """
        path, info = self._find(graph, sizes)
        tensor = next((each for each in self.spec(graph).inputs if "batch" in each.shape), None)
        if tensor is None or tensor.name not in info.profile:
            raise VqtrtError(f"{path}: the graph {graph!r} has no free batch; export the run again")
        return int(info.profile[tensor.name][2][tensor.shape.index("batch")])

    def _find(self, graph: str, sizes: Mapping[str, int]) -> tuple[Path, PlanInfo]:
        return find_plan(
            self.bundle,
            graph,
            self.precision,
            **self._here,
            fits=sizes,
            infos=self._infos,
        )

    def open(self, graph: str) -> Graph:
        """A graph that splits what has a larger batch than its engine's profile."""
        return OpenGraph(self, graph)

    def _bind(self, graph: str, sizes: Mapping[str, int], how: Binding) -> BoundGraph:
        """As `Engine.bind`; `threads` is of no use on a GPU."""
        with on_device(self.device):
            return TensorRTBound(
                self.plan(graph, sizes),
                self.spec(graph),
                sizes,
                how.shared,
                how.skip,
                self._known,
                graphs=self.graphs,
            )

    def bind_steps(
        self, graph: str, batch: int, *, runs: int, start: int, threads: int | None = None
    ) -> DeviceStepLoop:
        """As `Engine.bind_steps`: the runs are one launch."""
        sizes = {"batch": batch}
        plan, spec = self.plan(graph, sizes), self.spec(graph)
        with on_device(self.device):
            return DeviceStepLoop(plan, spec, sizes, runs, start, graphs=self.graphs)

    def _bind_rows(
        self, names: tuple[str, str], sizes: Mapping[str, int], start_code: int, threads: int | None
    ) -> DeviceRowLoop:
        """As `Engine.bind_rows`: a row is one launch."""
        row, step = names
        with on_device(self.device):
            return DeviceRowLoop(
                (self.plan(row, sizes), self.spec(row)),
                (self.plan(step, sizes), self.spec(step)),
                sizes,
                start_code,
                graphs=self.graphs,
            )


def split_batch(count: int, most: int) -> list[slice]:
    """Parts of a batch, each as large as it may be but the last; one for an empty batch."""
    return [slice(start, min(start + most, count)) for start in range(0, max(count, 1), most)]


def free_sizes(tensors: Sequence[TensorSpec], shapes: Sequence[Shape]) -> dict[str, int] | None:
    """The number that each free size of tables has in arrays' shapes; None if these do not fit.

    `4*h` is 32 where `h` is 8.
    """
    sizes: dict[str, int] = {}
    for tensor, shape in zip(tensors, shapes, strict=True):
        if len(shape) != len(tensor.shape):
            return None
        for size, number in zip(tensor.shape, shape, strict=True):
            if isinstance(size, int):
                if size != number:
                    return None
                continue
            factor, _, name = size.rpartition("*")
            whole, rest = divmod(number, int(factor or 1))
            if rest or sizes.setdefault(name, whole) != whole:
                return None
    return sizes


class OpenGraph:
    """A graph of one output and no caches, from arrays to an array.

    A batch above the profile's maximum is split; the parts go through two sets of buffers in turn,
    each on a stream of its own, so that what one copies overlaps what the other computes. A call
    of one part needs, and makes, only one of them.
    """

    def __init__(self, engine: TensorRTEngine, graph: str) -> None:
        spec = engine.spec(graph)
        leading = all(tensor.shape[0] == "batch" for tensor in spec.inputs)
        if len(spec.outputs) != 1 or not leading or "batch" not in spec.outputs[0].shape:
            raise VqtrtError(
                f"{engine.bundle.path}: the graph {graph!r} does not make one array a batch of its "
                "inputs; export the run again"
            )
        self._engine, self._graph = engine, graph
        self._sources, (self._target,) = spec.inputs, spec.outputs
        engine.plan(graph, {})  # an engine that is missing is found out now
        self._chosen: dict[tuple[Shape, ...], LoadedPlan] = {}
        self._sets: dict[Path, list[_Buffers]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Buffers stay behind: a copy has its own."""
        return type(self), (self._engine, self._graph)

    def __call__(self, *arrays: NDArray[Any]) -> NDArray[Any]:
        """Run on arrays of the table's dtypes and shapes; `VqtrtError` for others."""
        shapes = tuple(array.shape for array in arrays)
        known = len(arrays) == len(self._sources)
        sizes = free_sizes(self._sources, shapes) if known else None
        if sizes is None or any(
            array.dtype != source.dtype for array, source in zip(arrays, self._sources, strict=True)
        ):
            wanted = "; ".join(f"{t.dtype} ({', '.join(map(str, t.shape))})" for t in self._sources)
            given = "; ".join(f"{array.dtype} {array.shape}" for array in arrays)
            raise VqtrtError(
                f"{self._engine.bundle.path}: the graph {self._graph!r} takes {wanted}, not {given}"
            )
        with self._lock, on_device(self._engine.device):
            plan = self._choose(shapes, sizes)
            most = plan.ranges[self._sources[0].name].most[0]
            made: list[NDArray[Any]] = []
            running: deque[_Buffers] = deque()
            try:
                for index, part in enumerate(split_batch(sizes["batch"], most)):
                    if len(running) == _SETS:
                        made.append(running.popleft().finish())
                    running.append(self._buffers(plan, index % _SETS))
                    running[-1].start([array[part] for array in arrays])
                made += [buffers.finish() for buffers in running]
            except BaseException:
                for buffers in running:
                    buffers.settle()
                raise
            axis = self._target.shape.index("batch")
            return made[0] if len(made) == 1 else np.concatenate(made, axis)

    def _choose(self, shapes: tuple[Shape, ...], sizes: dict[str, int]) -> LoadedPlan:
        """The engine of the narrowest profile that takes the batch whole, else of the widest."""
        if shapes not in self._chosen:
            item = {name: size for name, size in sizes.items() if name != "batch"}
            try:
                self._chosen[shapes] = self._engine.plan(self._graph, sizes)
            except VqtrtError:
                self._chosen[shapes] = self._engine.plan(self._graph, item)
        return self._chosen[shapes]

    def _buffers(self, plan: LoadedPlan, index: int) -> "_Buffers":
        sets = self._sets.setdefault(plan.path, [])
        if index == len(sets):
            graphs = self._engine.graphs
            sets.append(_Buffers(plan, self._sources, self._target, graphs=graphs))
        return sets[index]


class _Tensor:
    """A pinned array and as much memory on the GPU, which grow as far as runs need."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self.host: NDArray[Any] = np.empty(0, dtype)
        self.device: DeviceArray | None = None

    def reserve(self, count: int) -> None:
        """Make room for as many elements, and twice as many as before if it has to grow."""
        if self.device is None or self.host.size < count:
            count = max(count, 2 * self.host.size)
            self.host = pinned((count,), self._dtype)
            self.device = DeviceArray(self.host.nbytes)

    @property
    def address(self) -> int:
        """On the GPU."""
        assert self.device is not None  # noqa: S101 - `reserve` comes first
        return self.device.address


class _Buffers:
    """A set of buffers, as large as what ran so far, with a context and a stream of its own."""

    def __init__(
        self,
        plan: LoadedPlan,
        sources: Sequence[TensorSpec],
        target: TensorSpec,
        *,
        graphs: bool,
    ) -> None:
        self._sources, self._target = sources, target
        ranges = [plan.ranges[source.name] for source in sources]
        self._least = max(span.least[0] for span in ranges)
        self._most = min(span.most[0] for span in ranges)
        self._stream = stream = Stream()
        # TensorRT for RTX captures runs of changing shapes better by itself.
        own = not plan.package.is_rtx
        self._context = context = plan.context(captured=own, graphs=graphs)
        self._tensors = {tensor.name: _Tensor(tensor.dtype) for tensor in (*sources, target)}
        self._repeated = Repeated(
            stream, enabled=graphs and own, capturable=lambda: context.capturable(stream)
        )
        self._shapes: tuple[Shape, ...] = ()
        self._rows = 0

    def start(self, parts: Sequence[NDArray[Any]]) -> None:
        """Queue a run on items (n, …), n at most the maximum; the batch is padded.

        With zeros: what is a code must be in the codebook.
        """
        self._rows = len(parts[0])
        rows = padded_batch(self._rows, self._most, self._least)
        self._shapes = tuple((rows, *part.shape[1:]) for part in parts)
        shapes: dict[str, Shape] = {}
        for source, part, shape in zip(self._sources, parts, self._shapes, strict=True):
            tensor = self._tensors[source.name]
            tensor.reserve(prod(shape))
            np.copyto(tensor.host[: part.size].reshape(part.shape), part)
            tensor.host[part.size : prod(shape)] = 0
            shapes[source.name] = shape
        self._context.prepare(shapes)
        self._tensors[self._target.name].reserve(prod(self._context.shape(self._target.name)))
        self._repeated.run(self._shapes, self._queue)  # addresses change with shapes only

    def _queue(self) -> None:
        for source, shape in zip(self._sources, self._shapes, strict=True):
            tensor = self._tensors[source.name]
            self._stream.copy_in(tensor.address, tensor.host[: prod(shape)])
        addresses = {name: tensor.address for name, tensor in self._tensors.items()}
        self._context.enqueue(addresses, self._stream)
        target = self._tensors[self._target.name]
        made = prod(self._context.shape(self._target.name))
        self._stream.copy_out(target.host[:made], target.address)

    def settle(self) -> None:
        """Wait for what is left of a run after an error: its memory may be used again, or freed."""
        with suppress(VqtrtError):
            self._stream.wait()

    def finish(self) -> NDArray[Any]:
        """Wait for the run, and give a copy of its output (n, …)."""
        self._stream.wait()
        shape = self._context.shape(self._target.name)
        before = (slice(None),) * self._target.shape.index("batch")
        made = self._tensors[self._target.name].host[: prod(shape)].reshape(shape)
        return made[*before, : self._rows].copy()
