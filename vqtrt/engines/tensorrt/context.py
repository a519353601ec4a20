"""A plan, deserialised, and the execution contexts that it runs in.

Contexts run in memory that is given to them: as much as the shapes at hand need, and not what the
largest of the profile would.
"""

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vqtrt.engines.cuda import DeviceArray, Stream, on_device
from vqtrt.engines.tensorrt.package import REFUSED, Package
from vqtrt.engines.tensorrt.runtime_cache import RuntimeCache
from vqtrt.errors import VqtrtError

Shape = tuple[int, ...]


class Range(NamedTuple):
    """The shapes that a profile takes for an input."""

    least: Shape
    most: Shape

    def holds(self, shape: Shape) -> bool:
        """Whether a shape is one of them."""
        return len(shape) == len(self.least) and all(
            low <= size <= high
            for low, size, high in zip(self.least, shape, self.most, strict=True)
        )

    def __str__(self) -> str:
        ends = zip(self.least, self.most, strict=True)
        return "x".join(str(low) if low == high else f"{low}..{high}" for low, high in ends)


class LoadedPlan:
    """A plan file's checked bytes as an engine of the package, on the GPU `device`.

    `rebuild` is the command that makes the plan; errors name it. `few_shapes` says that the
    profile leaves nothing but the batch free: see `_config`. `cache` keeps the compiled kernels,
    for a package that has a runtime cache; they are saved when the plan is no longer used, at the
    latest when the process ends.
    """

    def __init__(
        self,
        package: Package,
        content: bytes,
        path: Path,
        *,
        cache: RuntimeCache,
        rebuild: str,
        few_shapes: bool,
        device: int = 0,
    ) -> None:
        self.package, self.path, self.rebuild, self.device = package, path, rebuild, device
        self._few_shapes = few_shapes
        mark = package.log_mark()
        try:
            with on_device(device):
                # The engine needs its runtime for as long as it lives.
                self._runtime = package.module.Runtime(package.logger)
                self._engine = self._runtime.deserialize_cuda_engine(content)
        except REFUSED as error:
            raise self.failed("cannot start here", mark, error) from error
        if self._engine is None:
            raise self.failed("cannot load this engine on this GPU", mark)
        self._cache = cache
        if package.has_runtime_cache:
            weakref.finalize(self, cache.save)
        mode = package.module.TensorIOMode.INPUT
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        self.inputs = tuple(n for n in names if self._engine.get_tensor_mode(n) == mode)
        self.outputs = tuple(n for n in names if n not in self.inputs)
        self.ranges = {name: self._range(name) for name in self.inputs}
        """What the engine's profile, of which there is one, takes for each input."""

    def _range(self, name: str) -> Range:
        fixed = tuple(self._engine.get_tensor_shape(name))
        if -1 not in fixed:  # a profile need not speak of it
            return Range(fixed, fixed)
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        return Range(tuple(least), tuple(most))

    def itemsize(self, name: str) -> int:
        """Bytes of an element of a tensor."""
        return int(self._engine.get_tensor_dtype(name).itemsize)

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Raise `VqtrtError` for shapes that the profile does not take."""
        for name, shape in shapes.items():
            if not self.ranges[name].holds(shape):
                asked = "x".join(map(str, shape))
                raise VqtrtError(
                    f"{self.path}: this engine was built for {name} {self.ranges[name]}, not for "
                    f"{asked}: pass another --batch-size, or build one with --batch and --size: "
                    f"{self.rebuild}"
                )

    def context(self, *, captured: bool, graphs: bool) -> "Context":
        """An execution context.

        `captured` says that its runs will be captured into CUDA graphs by the caller; `graphs`
        that TensorRT for RTX may capture them itself if the caller does not.
        """
        module, mark = self.package.module, self.package.log_mark()
        with on_device(self.device):
            if self.package.has_runtime_cache:
                how = self._config(captured, graphs)
            else:
                how = module.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self._engine.create_execution_context(how)
        if context is None:
            raise self.failed("cannot make an execution context", mark)
        return Context(self, context)

    def _config(self, captured: bool, graphs: bool) -> Any:
        """How TensorRT for RTX runs a context.

        Its kernels for a shape are compiled before the shape's first run (EAGER), or general ones
        are used for all shapes (NONE), if these are too many to compile for each. LAZY, the
        default, begins with the general ones and changes over when others are compiled: the same
        picture could get another code a minute later.
        """
        module = self.package.module
        graph, kernels = module.CudaGraphStrategy, module.DynamicShapesKernelSpecializationStrategy
        config = self._engine.create_runtime_config()
        own = graphs and not captured
        config.cuda_graph_strategy = graph.WHOLE_GRAPH_CAPTURE if own else graph.DISABLED
        config.dynamic_shapes_kernel_specialization_strategy = (
            kernels.EAGER if self._few_shapes else kernels.NONE
        )
        config.set_execution_context_allocation_strategy(
            module.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        self._cache.attach(config)
        return config

    def save_cache(self) -> None:
        """Keep what was compiled since the plan was loaded, if the package and the folder can."""
        self._cache.save()

    def failed(self, what: str, mark: int, error: Exception | None = None) -> VqtrtError:
        """An error with what the package said since `mark`, or else with its own exception."""
        why = self.package.reason(mark) or " ".join(str(error or "").split())
        told = f" ({why})" if why else ""
        # A GPU that the package does not support is not helped by a new engine.
        unsupported = "does not support this" in why
        mend = "pass another --engine" if unsupported else f"build it again: {self.rebuild}"
        return VqtrtError(
            f"{self.path}: {self.package.name} {self.package.version} {what}{told}; {mend}"
        )


class Context:
    """An execution context; TensorRT allows one thread at a time in it."""

    def __init__(self, plan: LoadedPlan, context: Any) -> None:
        self.plan = plan
        self._context = context
        self._shapes: dict[str, Shape] = {}
        self._memory: DeviceArray | None = None

    def prepare(self, shapes: Mapping[str, Shape]) -> bool:
        """Set the shapes of all inputs, and give it the memory that it needs for them.

        Returns whether any shape was another before. None of its runs may be under way.
        """
        changed = {name: shape for name, shape in shapes.items() if self._shapes.get(name) != shape}
        if changed:
            with on_device(self.plan.device):
                self._prepare(changed)
        return bool(changed)

    def _prepare(self, changed: Mapping[str, Shape]) -> None:
        mark = self.plan.package.log_mark()
        for name, shape in changed.items():
            self._shapes.pop(name, None)  # not set until TensorRT took it
            if not self._context.set_input_shape(name, shape):
                raise self.plan.failed(f"refuses the shape {shape} of {name}", mark)
        try:
            missing = self._context.infer_shapes()
        except REFUSED as error:
            raise self.plan.failed("cannot infer shapes", mark, error) from error
        if missing:
            raise self.plan.failed(f"misses the shapes of {', '.join(missing)}", mark)
        nbytes = int(self._context.update_device_memory_size_for_shapes())
        if self._memory is None or self._memory.nbytes < nbytes:
            self._memory = None  # before there is more: both might not fit
            self._memory = DeviceArray(nbytes)
        self._context.set_device_memory(self._memory.address, self._memory.nbytes)
        self._shapes.update(changed)

    def shape(self, name: str) -> Shape:
        """Of a tensor, once the inputs have theirs."""
        return tuple(self._context.get_tensor_shape(name))

    def capturable(self, stream: Stream) -> bool:
        """Whether runs can be captured into a CUDA graph."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(int(stream)))

    def enqueue(self, addresses: Mapping[str, int], stream: Stream) -> None:
        """Queue a run, with every tensor at its address on the GPU."""
        mark = self.plan.package.log_mark()
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self.plan.failed(f"refuses the address of {name}", mark)
        with on_device(self.plan.device):
            queued = self._context.execute_async_v3(int(stream))
        if not queued:
            raise self.plan.failed("failed to run", mark)
