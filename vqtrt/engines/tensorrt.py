"""TensorRT and TensorRT for RTX, on an NVIDIA GPU, from the engines that a bundle holds.

Memory is CUDA's own, through cuda-python; torch is not needed. Loading an engine is running code:
`plans.read_plan` checks its bytes first, and only engines that you built should be in a bundle.
"""

import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from vqtrt.bundle import Bundle, GraphSpec, PriorFacts, TensorSpec
from vqtrt.engines import trt_package
from vqtrt.engines.base import BoundGraph, Graph
from vqtrt.engines.cuda import DeviceArray, Repeated, Stream, check_gpu, pinned
from vqtrt.engines.cuda_loop import DeviceRowLoop
from vqtrt.engines.cuda_step_loop import DeviceStepLoop
from vqtrt.engines.plans import find_plan, read_plan, rebuild, runtime_cache
from vqtrt.engines.trt_bound import Known, TensorRTBound
from vqtrt.engines.trt_context import LoadedPlan, Shape
from vqtrt.errors import VqtrtError
from vqtrt.precision import graph_key, require_precision


class TensorRTEngine:
    """A bundle's engines in `tensorrt` or `tensorrt-rtx`, on the first GPU that CUDA shows.

    `graphs` False queues everything plainly, without CUDA graphs. Raises `VqtrtError` where the
    package, the driver or the GPU is missing, and for an engine that is missing or does not fit.
    """

    lanes = 1
    shape_specialized = True

    def __init__(
        self,
        bundle: Bundle,
        package: str = "tensorrt-rtx",
        precision: str = "fp32",
        *,
        graphs: bool = True,
        device: int = 0,
        trust: bool = False,
    ) -> None:
        require_precision(bundle, precision)
        self.package = trt_package.load(package)
        check_gpu()
        self.name: str = self.package.name
        self.bundle, self.precision, self.graphs = bundle, precision, graphs
        self.facts = bundle.info.model
        self.preprocessing = bundle.info.preprocessing
        self.speech = bundle.info.speech
        self.weights_sha256 = bundle.info.source.weights_sha256
        self.priors: Mapping[str, PriorFacts] = bundle.info.priors
        self.device, self.trust = device, trust
        gpu = trt_package.device()
        self._here: dict[str, Any] = {
            "package": self.package.name,
            "version": self.package.version,
            "gpu": gpu and gpu.name,
            "capability": gpu and gpu.capability,
        }
        self._loaded: dict[Path, LoadedPlan] = {}
        self._known: Known = WeakValueDictionary()

    def spec(self, graph: str) -> GraphSpec:
        """The table entry of a graph at the engine's precision."""
        return self.bundle.graph_spec(graph_key(self.precision, graph))

    def plan(self, graph: str, sizes: Mapping[str, int]) -> LoadedPlan:
        """The engine of a graph that takes these sizes, loaded once."""
        path, _ = find_plan(self.bundle, graph, **self._here, precision=self.precision, fits=sizes)
        if path not in self._loaded:
            content = read_plan(self.bundle, path, **self._here)
            self._loaded[path] = LoadedPlan(
                self.package,
                content,
                path,
                cache=runtime_cache(path),
                rebuild=rebuild(self.bundle, self.package.name, self.precision),
            )
        return self._loaded[path]

    def most(self, graph: str, sizes: Mapping[str, int]) -> int:
        """The largest batch that an engine of a graph takes at these sizes."""
        _, info = find_plan(self.bundle, graph, **self._here, precision=self.precision, fits=sizes)
        tensor = next(each for each in self.spec(graph).inputs if "batch" in each.shape)
        return int(info.profile[tensor.name][2][tensor.shape.index("batch")])

    def open(self, graph: str) -> Graph:
        """A graph that splits what has a larger batch than its engine's profile."""
        return OpenGraph(self, graph)

    def bind(
        self,
        graph: str,
        sizes: Mapping[str, int],
        *,
        shared: Mapping[str, NDArray[Any]] | None = None,
        skip: Collection[str] = (),
        threads: int | None = None,
    ) -> BoundGraph:
        """As `Engine.bind`; `threads` is of no use on a GPU."""
        return TensorRTBound(
            self.plan(graph, sizes),
            self.spec(graph),
            sizes,
            shared or {},
            skip,
            self._known,
            graphs=self.graphs,
        )

    def bind_steps(
        self, graph: str, batch: int, *, runs: int, start: int, threads: int | None = None
    ) -> DeviceStepLoop:
        """As `Engine.bind_steps`: the runs are one launch."""
        sizes = {"batch": batch}
        plan, spec = self.plan(graph, sizes), self.spec(graph)
        return DeviceStepLoop(plan, spec, sizes, runs, start, graphs=self.graphs)

    def bind_loop(
        self, prior: str, step: str, sizes: Mapping[str, int], nothing: int
    ) -> DeviceRowLoop:
        """A prior's row and step graph, bound to draw rows on the GPU; see `sampler.BindLoop`."""
        row, step = f"priors/{prior}/row", f"priors/{prior}/{step}"
        return DeviceRowLoop(
            (self.plan(row, sizes), self.spec(row)),
            (self.plan(step, sizes), self.spec(step)),
            sizes,
            nothing,
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
    each on a stream of its own, so that what one copies overlaps what the other computes.
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
        with self._lock:
            plan = self._choose(shapes, sizes)
            sets, most = self._buffers(plan), plan.ranges[self._sources[0].name].most[0]
            made: list[NDArray[Any]] = []
            running: deque[_Buffers] = deque()
            for index, part in enumerate(split_batch(sizes["batch"], most)):
                if len(running) == len(sets):
                    made.append(running.popleft().finish())
                buffers = sets[index % len(sets)]
                buffers.start([array[part] for array in arrays])
                running.append(buffers)
            made += [buffers.finish() for buffers in running]
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

    def _buffers(self, plan: LoadedPlan) -> "list[_Buffers]":
        if plan.path not in self._sets:
            graphs = self._engine.graphs
            self._sets[plan.path] = [
                _Buffers(plan, self._sources, self._target, graphs=graphs) for _ in range(2)
            ]
        return self._sets[plan.path]


class _Buffers:
    """A set of buffers as large as a profile's maximum, with a context and a stream of its own."""

    def __init__(
        self,
        plan: LoadedPlan,
        sources: Sequence[TensorSpec],
        target: TensorSpec,
        *,
        graphs: bool,
    ) -> None:
        self._plan, self._sources, self._target = plan, sources, target
        spans = {source.name: plan.ranges[source.name] for source in sources}
        self._least = max(span.least[0] for span in spans.values())
        self._stream = Stream()
        # TensorRT for RTX captures runs of changing shapes better by itself.
        own = not plan.package.is_rtx
        self._context = plan.context(captured=own, graphs=graphs)
        self._context.prepare({name: span.most for name, span in spans.items()})
        self._in = {
            source.name: pinned((prod(spans[source.name].most),), source.dtype)
            for source in sources
        }
        self._out = pinned((prod(self._context.shape(target.name)),), target.dtype)
        self._device = {name: DeviceArray(array.nbytes) for name, array in self._in.items()}
        self._device[target.name] = DeviceArray(self._out.nbytes)
        self._addresses = {name: memory.address for name, memory in self._device.items()}
        self._repeated = Repeated(self._stream, enabled=graphs and own)
        self._seen: set[tuple[Shape, ...]] = set()
        self._shapes: tuple[Shape, ...] = ()
        self._rows = 0

    def start(self, parts: Sequence[NDArray[Any]]) -> None:
        """Queue a run on items (n, …), n at most the maximum; fewer than the least are filled up.

        With zeros: what is a code must be in the codebook.
        """
        self._stream.wait()  # after an error, a run can be left over
        self._rows = len(parts[0])
        rows = max(self._rows, self._least)
        self._shapes = tuple((rows, *part.shape[1:]) for part in parts)
        shapes: dict[str, Shape] = {}
        for source, part, shape in zip(self._sources, parts, self._shapes, strict=True):
            staged = self._in[source.name]
            np.copyto(staged[: part.size].reshape(part.shape), part)
            staged[part.size : prod(shape)] = 0
            shapes[source.name] = shape
        self._context.prepare(shapes)
        self._repeated.run(self._shapes, self._queue)

    def _queue(self) -> None:
        for source, shape in zip(self._sources, self._shapes, strict=True):
            staged = self._in[source.name][: prod(shape)]
            self._stream.copy_in(self._addresses[source.name], staged)
        self._context.enqueue(self._addresses, self._stream)
        made = prod(self._context.shape(self._target.name))
        self._stream.copy_out(self._out[:made], self._addresses[self._target.name])

    def finish(self) -> NDArray[Any]:
        """Wait for the run, and give a copy of its output (n, …)."""
        self._stream.wait()
        if self._shapes not in self._seen:
            self._seen.add(self._shapes)
            self._plan.save_cache()
        shape = self._context.shape(self._target.name)
        before = (slice(None),) * self._target.shape.index("batch")
        return self._out[: prod(shape)].reshape(shape)[*before, : self._rows].copy()
