"""ONNX to TensorRT: compiles a bundle's graphs into engine files (`engines/tensorrt/plans.py`).

Needs no torch: where a bundle is, `vqtrt[rtx]` is enough to compile it. Networks are strongly
typed, so that precision is what the ONNX graph says. Nothing here asks the builder for one;
`check_precision` proves from the parsed network which it is.
"""

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqtrt.engines.cuda import on_device
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.engines.tensorrt.package import REFUSED, Device, Package, errors, telling
from vqtrt.engines.tensorrt.plan_info import PLAN, PlanInfo, Profile, plan_sha256
from vqtrt.engines.tensorrt.plans import FOLDER, TIMING_CACHE, whole_plan, write_plan
from vqtrt.engines.tensorrt.runtime_cache import read_cache, write_cache
from vqtrt.engines.tensorrt.trust import is_known
from vqtrt.errors import VqtrtError
from vqtrt.export.tensorrt.profiles import graph_profile, parse_batch, parse_sizes
from vqtrt.export.tensorrt.report import (
    Layer,
    as_json,
    check_engine,
    check_precision,
    engine_layers,
    layers_of,
)
from vqtrt.formats.bundle import INFO as BUNDLE_INFO
from vqtrt.formats.bundle import Bundle
from vqtrt.formats.precision import PRECISIONS, graph_key, require_precision
from vqtrt.version import __version__

BATCH = (1, 64, 64)
"""Least batch of a profile, the one to be fastest at, and the largest: a tokenizer's own is 64."""
LOOP_BATCH = (1, 16, 64)
"""The same for the graphs of a loop, which draw fewer at a time."""
_TICK = 0.05  # seconds between two looks at the builder's progress


@dataclass(frozen=True)
class Built:
    """What a build gave."""

    plan: bytes
    layers: list[Layer]
    """Of the network as it was parsed."""
    engine: list[Any] | None
    """Of the engine, as its inspector tells them; None if no GPU is here to ask it on."""
    activation_bytes: int | None
    """Memory on the GPU that a context takes at the largest shapes; None if nothing told."""
    log: list[str]
    seconds: float


@dataclass(frozen=True)
class Options:
    """What engines are built with, and for."""

    package: Package
    batch: Sequence[int] | None = None
    """Least, usual and largest; None for `BATCH`, and `LOOP_BATCH` for priors and `step`."""
    sizes: Sequence[tuple[int, int]] | None = None
    """Height and width of pictures in pixels: least, usual and largest. None builds the tokenizer
    for the bundle's own size, and each prior for the grids that it was trained on."""
    compute_capabilities: Sequence[str] = ()
    """Such as `8.9`, for RTX alone; none makes engines that are portable."""
    device: int = 0
    """The GPU that `tensorrt` compiles on, by CUDA's number."""

    def batch_of(self, graph: str) -> Sequence[int]:
        """The batch of a graph's profile."""
        return self.batch or (LOOP_BATCH if in_loop(graph) else BATCH)


def engine_options(
    package: str,
    batch: str | None = None,
    size: str | None = None,
    compute_capabilities: Sequence[str] | None = None,
    device: int = 0,
) -> Options:
    """The options of the command line, checked."""
    loaded = trt_package.load(package)
    for text in compute_capabilities or ():
        loaded.compute_capability(text)
    sizes = None if size is None else parse_sizes(size)
    batches = None if batch is None else parse_batch(batch)
    return Options(loaded, batches, sizes, tuple(compute_capabilities or ()), device)


def in_loop(graph: str) -> bool:
    """Whether a graph runs again and again for a sample, and is captured into CUDA graphs."""
    return graph == "step" or graph.startswith("priors/")


def is_bundle(path: Path | None) -> bool:
    """Whether it is a bundle that was named, and not its run: such a one is built as it stands."""
    return path is not None and (path / BUNDLE_INFO).is_file()


def build_engines(
    bundle: Bundle,
    options: Options,
    precisions: Sequence[str] = ("fp32",),
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Compile every graph that a bundle has in `precisions`, but those that are built and whole.

    `progress` is told hundredths. Returns for each graph of the bundle's table `engine`, `bytes`,
    `activation_bytes` (memory on the GPU of a context at the largest shapes, None if not known),
    `seconds`, `built`, which is false for one that was there, and `trusted`, which is false if this
    user's state folder could not be written.
    """
    device = None if options.package.is_rtx else _device(options.package, options.device)
    work = [
        (
            precision,
            graph,
            graph_profile(bundle, graph, precision, options.batch_of(graph), options.sizes),
        )
        for precision in dict.fromkeys(precisions)
        for graph in graphs_in(bundle, precision)
    ]
    results = {}
    for index, (precision, graph, profile) in enumerate(work):

        def advanced(share: float, index: int = index) -> None:
            progress(int((index + share) / len(work) * 100), 100)

        name = graph_key(precision, graph)
        results[name] = _engine(bundle, options, device, graph, precision, profile, advanced)
        advanced(1)
    return results


def build_plan(
    package: Package,
    onnx_bytes: bytes,
    profile: Profile,
    *,
    compute_capabilities: Sequence[str] = (),
    capturable: bool = False,
    timing_cache: Path | None = None,
    device: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Built:
    """Compile an ONNX graph for the shapes of a profile; a refusal is a `VqtrtError`.

    `capturable` makes an engine that allocates nothing while it runs, so that many runs can be
    captured into one CUDA graph; TensorRT for RTX may allocate otherwise.
    `timing_cache` is read, where it exists, and written by packages that have one. `device` is the
    GPU to compile on; None if no GPU is needed. `progress` is told the share that is done, from 0
    to 1.
    """
    start, module = time.perf_counter(), package.module
    with package.logging() as log, _on(device):
        try:
            builder = module.Builder(package.logger)
            network = builder.create_network(package.network_flags())
            parser = module.OnnxParser(network, package.logger)
        except REFUSED as error:
            why = telling(errors(log)) or str(error)
            raise VqtrtError(f"{package.name} {package.version} cannot build: {why}") from error
        if not parser.parse(onnx_bytes):
            said = [str(parser.get_error(index)) for index in range(parser.num_errors)]
            raise VqtrtError(f"{package.name} {package.version} cannot parse it: {_line(said)}")
        config = builder.create_builder_config()
        # On by default, it rounds float32 to 10 bits before a product: codes would flip.
        config.clear_flag(module.BuilderFlag.TF32)
        config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
        if capturable and package.is_rtx:
            config.set_flag(module.BuilderFlag.REQUIRE_USER_ALLOCATION)
        if compute_capabilities:
            config.num_compute_capabilities = len(compute_capabilities)
            for index, text in enumerate(compute_capabilities):
                config.set_compute_capability(package.compute_capability(text), index)
        _add_profile(package, builder, network, config, profile, log)
        if timing_cache is not None and package.has_timing_cache:
            cache = config.create_timing_cache(read_cache(timing_cache) or b"")
            config.set_timing_cache(cache, False)
        plan = _compile(module, builder, network, config, progress, device)
        if plan is None:
            raise VqtrtError(
                f"{package.name} {package.version} cannot build it: {_line(errors(log))}"
            )
        if timing_cache is not None and package.has_timing_cache:
            timing_cache.parent.mkdir(parents=True, exist_ok=True)
            cache = config.get_timing_cache()
            if cache is not None and (kept := cache.serialize()) is not None:
                write_cache(timing_cache, bytes(kept))
        content, layers = bytes(plan), layers_of(network)
        engine = engine_layers(package, content, device or 0)
    seconds = time.perf_counter() - start
    return Built(content, layers, engine, activation_bytes(log), log, seconds)


def activation_bytes(log: Sequence[str]) -> int | None:
    """The memory of a context at the largest shapes, as the builder's log tells it."""
    found = re.findall(r"Total Activation Memory: (\d+) bytes", "\n".join(log))
    return int(found[-1]) if found else None


def graphs_in(bundle: Bundle, precision: str) -> list[str]:
    """Names of the graphs that a bundle has in a precision, without the precision."""
    require_precision(bundle, precision)
    if precision != "fp32":
        prefix = graph_key(precision, "")
        return [n.removeprefix(prefix) for n in bundle.info.graphs if n.startswith(prefix)]
    halves = tuple(graph_key(each, "") for each in PRECISIONS if each != "fp32")
    return [name for name in bundle.info.graphs if not name.startswith(halves)]


def _engine(
    bundle: Bundle,
    options: Options,
    device: Device | None,
    graph: str,
    precision: str,
    profile: Profile,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    """Build one graph and write its files, unless they are there."""
    name, package = graph_key(precision, graph), options.package
    compute_capabilities = (device.capability,) if device else tuple(options.compute_capabilities)
    info = PlanInfo(
        graph=graph,
        graph_sha256=bundle.graph_spec(name).sha256,
        package=package.name,
        package_version=package.version,
        precision=precision,
        profile=profile,
        gpu=device.name if device else None,
        compute_capabilities=compute_capabilities,
        capturable=in_loop(graph),
        plan_sha256="0" * 64,
        plan_bytes=1,
        activation_bytes=None,
        vqtrt_version=__version__,
    )
    folder = bundle.path / FOLDER
    there = whole_plan(bundle, info)
    if there is not None:
        return _result(folder / f"{there.key}{PLAN}", there, 0.0, built=False)
    try:
        built = build_plan(
            package,
            bundle.graph_bytes(name),
            profile,
            compute_capabilities=options.compute_capabilities,
            capturable=info.capturable,
            timing_cache=_timing_cache(folder, package, device),
            device=options.device if device else None,
            progress=progress,
        )
    except VqtrtError as error:
        raise VqtrtError(f"{bundle.path}: the graph {name!r}: {error}") from error
    spectrum = bundle.info.speech is not None and graph == "encoder"
    what = f"{bundle.path}: the graph {name!r}"
    check_precision(built.layers, precision, what, spectrum=spectrum)
    check_engine(built.engine, precision, what)
    made = {
        "plan_sha256": plan_sha256(built.plan),
        "plan_bytes": len(built.plan),
        "activation_bytes": built.activation_bytes,
    }
    info = info.model_copy(update=made)
    path = write_plan(folder, info, built.plan, as_json(built.layers, built.engine), built.log)
    return _result(path, info, built.seconds, built=True)


def _result(path: Path, info: PlanInfo, seconds: float, *, built: bool) -> dict[str, Any]:
    return {
        "engine": str(path),
        "bytes": info.plan_bytes,
        "activation_bytes": info.activation_bytes,
        "seconds": seconds,
        "built": built,
        "trusted": is_known(info.plan_sha256),
    }


def _device(package: Package, index: int) -> Device:
    device = trt_package.device(index)
    if device is None:
        raise VqtrtError(
            f"{package.name} compiles on the GPU that will run it, and none can be used here: "
            "take --target tensorrt-rtx, which compiles on any machine"
        )
    return device


def _timing_cache(folder: Path, package: Package, device: Device | None) -> Path | None:
    if device is None:
        return None
    gpu = re.sub(r"[^A-Za-z0-9]+", "-", device.name)
    return folder / f"{package.version}-{gpu}{TIMING_CACHE}"


def _add_profile(
    package: Package, builder: Any, network: Any, config: Any, profile: Profile, log: list[str]
) -> None:
    made = builder.create_optimization_profile()
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    missing = {tensor.name for tensor in inputs} ^ set(profile)
    if missing:
        raise VqtrtError(f"the inputs of the graph and of the profile differ: {sorted(missing)}")
    for name, shapes in profile.items():
        with suppress(ValueError):  # what it refuses, `add_optimization_profile` refuses too
            made.set_shape(name, *shapes)
    if config.add_optimization_profile(made) < 0:
        raise VqtrtError(f"{package.name} refuses the profile {profile}: {_line(errors(log))}")


def _compile(
    module: Any,
    builder: Any,
    network: Any,
    config: Any,
    progress: Callable[[float], None],
    device: int | None,
) -> Any:
    """Build in another thread: Ctrl-C must not come up inside the builder's own call of Python."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        """Adds up the outermost phase and the one within it."""

        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.phases: dict[str, tuple[str | None, int, int]] = {}
            self.share, self.stopped = 0.0, False

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.phases[name] = (parent, max(steps, 1), 0)

        def step_complete(self, name: str, step: int) -> bool:
            parent, steps, _ = self.phases.get(name, (None, 1, 0))
            self.phases[name] = (parent, steps, step + 1)
            if parent in self.phases and self.phases[parent][0] is None:
                _, outer, done = self.phases[parent]
                self.share = max(self.share, (done + (step + 1) / steps) / outer)
            return not self.stopped

        def phase_finish(self, name: str) -> None:
            pass

    monitor = Monitor()
    config.progress_monitor = monitor

    def build() -> Any:
        with _on(device):
            return builder.build_serialized_network(network, config)

    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(build)
        try:
            while wait([work], _TICK).not_done:
                progress(min(monitor.share, 1.0))
        except BaseException:
            monitor.stopped = True
            raise
        return work.result()


def _on(device: int | None) -> AbstractContextManager[None]:
    return nullcontext() if device is None else on_device(device)


def _line(messages: Sequence[str]) -> str:
    """What the package says, in one line."""
    return telling(messages) or "it gives no reason"
