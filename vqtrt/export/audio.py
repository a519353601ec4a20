"""From a run on speech to its bundle, as `export/bundle.py` for images."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from vqtrt.export.audio_prior import wavenet_prior_graphs
from vqtrt.export.bundle import run_info, write_bundle
from vqtrt.export.graph_writer import GraphWriter
from vqtrt.formats.bundle import Bundle, BundleInfo, GraphSpec
from vqtrt.formats.precision import graph_key
from vqtrt.models.audio import SpeechVQVAE
from vqtrt.models.audio_graphs import speech_graph, speech_graph_names
from vqtrt.models.info import speech_info
from vqtrt.models.precision import torch_dtype
from vqtrt.models.runs import AudioRun
from vqtrt.priors.runs import trained_speech_priors


def export_speech_run(
    run: AudioRun,
    out: Path,
    precisions: Sequence[str] = ("fp32",),
    kept: Callable[[str], None] = lambda name: None,
) -> Bundle:
    """As `export_run`."""
    model, priors = run.load_model(), trained_speech_priors(run.path)

    def write(writer: GraphWriter, precision: str) -> None:
        speech_graphs(model, writer, precision)
        for name, prior in priors.items():
            wavenet_prior_graphs(prior.load(), name, writer, precision)

    def describe(graphs: dict[str, GraphSpec]) -> BundleInfo:
        info, speech = speech_info(model, run.config)
        return run_info(run, graphs, priors, kind="speech", model=info, speech=speech)

    return write_bundle(out, precisions, write, describe, kept)


def speech_graphs(
    model: SpeechVQVAE, writer: GraphWriter, precision: str = "fp32", *, skip: Collection[str] = ()
) -> None:
    """Write the graphs of `speech_graph_names`, less some; batch and length are free."""
    for name in speech_graph_names(model):
        if name not in skip:
            graph = speech_graph(model, name, torch_dtype(precision))
            writer.write(graph_key(precision, name), graph, {"batch": 3, "t": 7})
