"""What an engine is: it opens a model's graphs by name; a graph maps arrays to an array.

Threads may share an engine and its open graphs: each call gives what it gives alone. A bound graph
has one set of buffers and belongs to one thread at a time; samplers and decoders that bind graphs
let threads take turns, or bind a set for each.

An engine can be pickled, copied and used after a fork. What it opened stays behind and is opened
again when it is next needed (`opened.Opened`). Bound graphs are not pickled: whoever binds them
keeps them in `Opened` too.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.engines.options import AUTO, EngineOptions
from vqtrt.formats.bundle import Bundle, GraphSpec, ModelInfo, PriorInfo, SpeechInfo
from vqtrt.formats.precision import graph_key, require_precision

Graph = Callable[..., NDArray[Any]]
"""Runs once on one array for each input, in the order of the graph's table, which gives their
dtypes and shapes (see docs/architecture.md). Threads may share it."""


class BoundGraph(Protocol):
    """A graph with its buffers, for loops: written into, run and read, without an allocation.

    What a graph gives as `keptN` it gets back as `cacheN` at the next run, or as many runs later as
    its table says; before that there are zeros. These caches stay where the engine has them and do
    not appear among inputs and outputs. It belongs to one thread at a time, and to one process.
    """

    @property
    def inputs(self) -> Mapping[str, NDArray[Any]]:
        """Arrays to write to before a run."""

    @property
    def outputs(self) -> Mapping[str, NDArray[Any]]:
        """Arrays to read after a run."""

    def run(self) -> None:
        """Run once; the caches move on."""

    def reset(self) -> None:
        """Set the caches to zero."""


class StepLoop(Protocol):
    """A step graph, bound to draw for a batch of N sequences, some runs at a time."""

    @property
    def runs(self) -> int:
        """The most runs of a call of `draw`."""

    @property
    def inputs(self) -> Mapping[str, NDArray[Any]]:
        """Arrays to write to: `noise` float32 (runs, N, u) and `bias` before each `draw`.

        And before `begin` the sampling parameters and `speakers`, if the graph has them.
        """

    @property
    def drawn(self) -> NDArray[Any]:
        """int32 (runs, N, u), to read after `draw`."""

    def begin(self) -> None:
        """Begin sequences: forget what was drawn."""

    def draw(self, runs: int) -> None:
        """Draw the first `runs` of a call, all of them with the same `bias`.

        A loop may draw the rest as well, so fewer than all can only be the last of a sequence.
        """


class RowLoop(Protocol):
    """A PixelCNN's row graph and step graph, bound to draw a batch of N grids row by row."""

    @property
    def inputs(self) -> Mapping[str, NDArray[Any]]:
        """Arrays to write to: `above` int32 (N, W, C) and `noise` float32 (W, N, C) before a row.

        And before `begin` the sampling parameters and `labels`, if the graphs have them.
        """

    @property
    def codes(self) -> NDArray[Any]:
        """int32 (W, N, C), to read after `draw`."""

    def begin(self) -> None:
        """Begin samples: forget the rows before."""

    def skip(self) -> None:
        """Go past a row that is known."""

    def draw(self, progress: Callable[[], None]) -> None:
        """Draw a row; `progress` is called once for each position."""


class Binding(NamedTuple):
    """How a graph is bound; see `Engine.bind`."""

    shared: Mapping[str, NDArray[Any]]
    skip: Collection[str]
    threads: int | None


class Engine(ABC):
    """A model, opened on one backend. Threads may share it; it can be pickled.

    A new backend defines `open` and `_bind`; it overrides the others where it can do better.
    """

    name: str
    """What `--engine` calls it."""
    precision: str
    """Of the graphs that it runs, of `vqtrt.formats.precision.PRECISIONS`."""
    info: ModelInfo
    preprocessing: Preprocessing | None
    """Of images; None for a model of audio."""
    speech: SpeechInfo | None
    """Of a model of audio; None for images."""
    weights_sha256: str
    """Of the weights that the model was trained to: equal weights, equal codes."""
    priors: Mapping[str, PriorInfo]
    """The priors that the model has, by name."""
    num_streams: int = 1
    """How many bound graphs to run in parallel, one thread each."""
    shape_specialized: bool = False
    """Whether kernels are compiled or chosen for each shape of the inputs, as on a GPU, where they
    also round differently. Callers then fill batches up to one size, where that changes no result.
    """

    @abstractmethod
    def open(self, graph: str) -> Graph:
        """Make a graph of one output and no caches ready to run, such as `encoder`."""

    def bind(
        self,
        graph: str,
        sizes: Mapping[str, int],
        *,
        shared: Mapping[str, NDArray[Any]] | None = None,
        skip: Collection[str] = (),
        threads: int | None = None,
    ) -> BoundGraph:
        """Make a graph (such as `priors/NAME/step`) ready for a loop, at fixed sizes.

        `sizes` gives a number to each free size of its table. An input in `shared` is that array,
        so that one graph's output can be another's input. Outputs in `skip` are not made.
        `threads` bounds the cores of a run, where the engine can; None for all that it has.
        """
        return self._bind(graph, sizes, Binding(shared or {}, skip, threads))

    @abstractmethod
    def _bind(self, graph: str, sizes: Mapping[str, int], how: "Binding") -> BoundGraph:
        """As `bind`."""

    def bind_steps(
        self, graph: str, batch: int, *, runs: int, start: int, threads: int | None = None
    ) -> StepLoop:
        """Make a step graph (`step`, or `priors/NAME/step` of a WaveNet prior) ready to draw.

        For `batch` sequences; at most `runs` runs at a time, and fewer if a GPU does better so.
        `start` stands for what is before the first run, and `threads` is as for `bind`. By default
        run by run.
        """
        from vqtrt.engines.step_loop import HostStepLoop

        step = self.bind(graph, {"batch": batch}, skip=("logits",), threads=threads)
        return HostStepLoop(step, runs, start)

    def bind_rows(
        self,
        prior: str,
        step: str,
        sizes: Mapping[str, int],
        *,
        start_code: int,
        threads: int | None = None,
    ) -> RowLoop:
        """Make the row graph and a step graph of a PixelCNN prior ready to draw rows.

        `step` is `step` or `step_filtered`; `sizes` has `batch` and `width`; `start_code` stands
        for no code, outside the grid. By default position by position.
        """
        names = f"priors/{prior}/row", f"priors/{prior}/{step}"
        return self._bind_rows(names, sizes, start_code, threads)

    def _bind_rows(
        self, names: tuple[str, str], sizes: Mapping[str, int], start_code: int, threads: int | None
    ) -> RowLoop:
        """As `bind_rows`, of a row graph and a step graph by name."""
        from vqtrt.engines.row_loop import HostRowLoop

        bind = partial(self.bind, sizes=sizes, threads=threads)
        return HostRowLoop(bind, names, sizes["width"], start_code)

    def largest_batch(self, graph: str, sizes: Mapping[str, int]) -> int | None:
        """The largest batch that a graph takes at these other sizes; None for any."""
        return None


class BundleEngine(Engine):
    """What engines that run a bundle's graphs have in common.

    Raises `VqtrtError` if the bundle has no graphs of the precision that is asked for.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions = AUTO) -> None:
        require_precision(bundle, options.precision)
        info = bundle.info
        self.bundle, self.options = bundle, options
        self.precision = options.precision
        self.info = info.model
        self.preprocessing = info.preprocessing
        self.speech = info.speech
        self.weights_sha256 = info.source.weights_sha256
        self.priors = info.priors

    def spec(self, graph: str) -> GraphSpec:
        """The table entry of a graph at the engine's precision."""
        return self.bundle.graph_spec(graph_key(self.precision, graph))
