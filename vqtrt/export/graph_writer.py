"""Where an export writes the graphs of a bundle."""

from collections.abc import Mapping
from pathlib import Path

from vqtrt.bundle import Bundle, GraphSpec
from vqtrt.errors import VqtrtError
from vqtrt.export.made_from import made_from
from vqtrt.export.onnx import write_deployed
from vqtrt.models.deployed import DeployedGraph


class GraphWriter:
    """Writes graphs into a folder; `graphs` has their entries of the bundle's table, by name.

    A graph that the bundle `before` has from the same weights, settings and code is copied from
    there, and its name is in `kept`: to export one takes seconds, a large WaveNet's step 20.
    """

    def __init__(self, folder: Path, before: Bundle | None = None) -> None:
        self.folder = folder
        self.before = before
        self.graphs: dict[str, GraphSpec] = {}
        self.kept: list[str] = []

    def write(self, name: str, graph: DeployedGraph, example: Mapping[str, int]) -> None:
        """Write a graph to NAME.onnx; `example` as `write_deployed` takes it."""
        file, made = f"{name}.onnx", made_from(graph, example)
        spec = self._copy(name, graph, made) if made else None
        if spec is None:
            spec = write_deployed(graph, example, self.folder, file)
        self.graphs[name] = spec.model_copy(update={"made_from": made})

    def _copy(self, name: str, graph: DeployedGraph, made: str) -> GraphSpec | None:
        """Copy a graph of the bundle before, if it is whole there and made from the same."""
        spec = self.before.info.graphs.get(name) if self.before else None
        if self.before is None or spec is None or spec.made_from != made:
            return None
        try:
            content = self.before.graph_bytes(name)
        except VqtrtError:
            return None  # damaged or gone, which an export mends
        file = f"{name}.onnx"
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.kept.append(name)
        return GraphSpec(
            file=file,
            sha256=spec.sha256,
            inputs=(*graph.inputs, *graph.caches),
            outputs=(*graph.outputs, *graph.kept()),
        )
