"""Where an export writes the graphs of a bundle."""

from collections.abc import Callable, Mapping
from pathlib import Path

from vqtrt.errors import VqtrtError
from vqtrt.export.fingerprint import fingerprint
from vqtrt.export.onnx import write_deployed, write_file
from vqtrt.formats.bundle import Bundle, GraphSpec
from vqtrt.models.deployed import DeployedGraph


class GraphWriter:
    """Writes graphs into a folder; `graphs` has their entries of the bundle's table, by name.

    A graph that the bundle `before` has from the same weights, settings and code is copied from
    there, and `kept` is called with its name: to export one takes seconds, a large WaveNet's step
    20.
    """

    def __init__(
        self,
        folder: Path,
        before: Bundle | None = None,
        kept: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.folder = folder
        self.before = before
        self.kept = kept
        self.graphs: dict[str, GraphSpec] = {}

    def write(self, name: str, graph: DeployedGraph, example: Mapping[str, int]) -> None:
        """Write a graph to NAME.onnx; `example` as `write_deployed` takes it."""
        file, made = f"{name}.onnx", fingerprint(graph, example)
        content = self._content_before(name, made)
        if content is None:
            spec = write_deployed(graph, example, self.folder, file)
        else:
            spec = write_file(content, graph.all_inputs, graph.all_outputs, self.folder, file)
            self.kept(name)
        self.graphs[name] = spec.model_copy(update={"made_from": made})

    def _content_before(self, name: str, made: str | None) -> bytes | None:
        """The bytes of a graph of the bundle before, if they are whole and made from the same."""
        if self.before is None or made is None:
            return None
        spec = self.before.info.graphs.get(name)
        if spec is None or spec.made_from != made:
            return None
        try:
            return self.before.graph_bytes(name)
        except VqtrtError:
            return None  # damaged or gone, which an export mends
