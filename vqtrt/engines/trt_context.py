"""A plan, deserialised, and the execution contexts that it runs in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vqtrt.engines.cuda import Stream
from vqtrt.engines.runtime_cache import read_cache, write_cache
from vqtrt.engines.trt_package import Package
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
    """A plan file's checked bytes as an engine of the package.

    `rebuild` is the command that makes the plan; every error names it. `cache` is the file of the
    runtime cache, for a package that has one.
    """

    def __init__(
        self, package: Package, content: bytes, path: Path, *, cache: Path, rebuild: str
    ) -> None:
        self.package, self.path, self.rebuild = package, path, rebuild
        # The engine needs its runtime for as long as it lives.
        self._runtime = package.module.Runtime(package.logger)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise self.failed("cannot load this engine on this GPU")
        self._cache_file = cache
        self._cache: Any = None
        self._saved: bytes | None = None
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
        that TensorRT for RTX may capture them itself, where the caller does not.
        """
        if self.package.has_runtime_cache:
            context = self._engine.create_execution_context(self._config(captured, graphs))
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise self.failed("cannot make an execution context; a smaller batch needs less memory")
        self.save_cache()
        return Context(self, context)

    def _config(self, captured: bool, graphs: bool) -> Any:
        module = self.package.module
        config = self._engine.create_runtime_config()
        strategy, kernels = (
            module.CudaGraphStrategy,
            module.DynamicShapesKernelSpecializationStrategy,
        )
        own = graphs and not captured
        config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if own else strategy.DISABLED
        # A graph that the caller captures would keep the slow kernels that LAZY begins with.
        config.dynamic_shapes_kernel_specialization_strategy = (
            kernels.EAGER if captured else kernels.LAZY
        )
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            self._saved = read_cache(self._cache_file)
            # One of another version or GPU is not taken, and written anew.
            if self._saved is not None and not self._cache.deserialize(self._saved):
                self._saved = None
        config.set_runtime_cache(self._cache)
        return config

    def save_cache(self) -> None:
        """Keep what was compiled since the plan was loaded, where the package keeps it."""
        if self._cache is None:
            return
        kept = bytes(self._cache.serialize())
        if kept != self._saved and write_cache(self._cache_file, kept):
            self._saved = kept

    def failed(self, what: str) -> VqtrtError:
        """An error with the package's own last words."""
        errors = [line for line in self.package.logger.lines if "ERROR" in line.partition(":")[0]]
        why = f" ({' '.join(errors[-1].split())[:300]})" if errors else ""
        return VqtrtError(
            f"{self.path}: {self.package.name} {self.package.version} {what}{why}; build it again: "
            f"{self.rebuild}"
        )


class Context:
    """An execution context; TensorRT allows one thread at a time in it."""

    def __init__(self, plan: LoadedPlan, context: Any) -> None:
        self.plan = plan
        self._context = context
        self._shapes: dict[str, Shape] = {}

    def prepare(self, shapes: Mapping[str, Shape]) -> bool:
        """Set the shapes of all inputs; whether any was another before."""
        changed = {name: shape for name, shape in shapes.items() if self._shapes.get(name) != shape}
        for name, shape in changed.items():
            if not self._context.set_input_shape(name, shape):
                raise self.plan.failed(f"refuses the shape {shape} of {name}")
            self._shapes[name] = shape
        if changed:
            missing = self._context.infer_shapes()
            if missing:
                raise self.plan.failed(f"misses the shapes of {', '.join(missing)}")
        return bool(changed)

    def shape(self, name: str) -> Shape:
        """Of a tensor, once the inputs have theirs."""
        return tuple(self._context.get_tensor_shape(name))

    def capturable(self, stream: Stream) -> bool:
        """Whether runs can be captured into a CUDA graph."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(int(stream)))

    def enqueue(self, addresses: Mapping[str, int], stream: Stream) -> None:
        """Queue a run, with every tensor at its address on the GPU."""
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self.plan.failed(f"refuses the address of {name}")
        if not self._context.execute_async_v3(int(stream)):
            raise self.plan.failed("failed to run")
