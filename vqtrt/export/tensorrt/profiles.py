"""The shapes that an engine is built for: of each input the least, the usual and the largest."""

import re
from collections.abc import Mapping, Sequence

from vqtrt.audio.chunks import chunk_codes
from vqtrt.audio.score import longest_run
from vqtrt.engines.tensorrt.plan_info import Profile, Shape
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle, GraphSpec, SpeechInfo, axis_size, of_images
from vqtrt.formats.precision import graph_key


def parse_batch(text: str) -> tuple[int, int, int]:
    """`--batch`: `1,16,64` for least, usual and largest, or `64` for all three."""
    if re.fullmatch(r"[1-9]\d{0,6}(,[1-9]\d{0,6}){2}|[1-9]\d{0,6}", text):
        numbers = [int(part) for part in text.split(",")]
        least, usual, largest = numbers if len(numbers) == 3 else numbers * 3
        if least <= usual <= largest:
            return least, usual, largest
    raise VqtrtError(
        f"batch {text!r}: expected the least, the usual and the largest, such as 1,16,64, or one "
        "number for all three"
    )


def parse_sizes(text: str) -> list[tuple[int, int]]:
    """`--size`: `32x32`, or three as in `16x16,32x32,64x64`, each height and width in pixels."""
    side = r"[1-9]\d{0,4}(?:x[1-9]\d{0,4})?"
    if re.fullmatch(rf"{side}(,{side},{side})?", text.lower()):
        parts = [part.partition("x") for part in text.lower().split(",")]
        sizes = [(int(height), int(width or height)) for height, _, width in parts]
        sizes = sizes if len(sizes) == 3 else sizes * 3
        if all(list(sides) == sorted(sides) for sides in zip(*sizes, strict=True)):
            return sizes
    raise VqtrtError(
        f"size {text!r}: expected HxW in pixels, such as 32x32, or three from small to large, such "
        "as 32x32,64x64,128x128"
    )


def graph_profile(
    bundle: Bundle,
    graph: str,
    precision: str,
    batch: Sequence[int],
    pictures: Sequence[tuple[int, int]] | None = None,
) -> Profile:
    """The shapes of a graph's inputs: the least, those to be fastest at, and the largest.

    `batch` has three sizes; `pictures` three heights and widths in pixels, or None for the model's
    own size. Raises `VqtrtError` for sizes that the model does not take.
    """
    spec = bundle.graph_spec(graph_key(precision, graph))
    speech = bundle.info.speech
    if speech is None:
        sizes = _image_sizes(bundle, graph, pictures)
    elif pictures is not None:
        raise VqtrtError("--size is of pictures, and this is a model of speech; leave it out")
    else:
        sizes = [{"t": t} for t in _lengths(bundle, speech, graph)]
    shapes = [
        _shapes(bundle, graph, spec, {"batch": n} | free)
        for n, free in zip(batch, sizes, strict=True)
    ]
    return {name: (shapes[0][name], shapes[1][name], shapes[2][name]) for name in shapes[0]}


def _image_sizes(
    bundle: Bundle, graph: str, pictures: Sequence[tuple[int, int]] | None
) -> list[dict[str, int]]:
    """Sizes of grids: least, usual and largest."""
    stride, size = bundle.info.model.stride, of_images(bundle.info.preprocessing)
    prior = bundle.info.priors.get(_prior_of(graph))
    grids = [(size.height // stride, size.width // stride)] * 3
    if pictures is None and prior is not None:
        grids = [(prior.height, prior.width)] * 3
    if pictures is not None:
        for height, width in pictures:
            if height % stride or width % stride:
                raise VqtrtError(
                    f"size {height}x{width}: height and width must be multiples of {stride}, "
                    "the model's stride"
                )
        grids = [(height // stride, width // stride) for height, width in pictures]
    return [{"h": h, "w": w, "height": h, "width": w} for h, w in grids]


def _lengths(bundle: Bundle, speech: SpeechInfo, graph: str) -> tuple[int, int, int]:
    """Codes of a clip: from one to as many as are computed at once; two seconds are usual."""
    stride, prior = bundle.info.model.stride, bundle.info.priors.get(_prior_of(graph))
    if prior is not None:
        most = longest_run(prior.receptive_field)
    else:
        context = speech.context if graph == "encoder" else speech.decoder_context
        most = chunk_codes(stride, context)
    usual = 2 * speech.preprocessing.sample_rate // stride
    return 1, min(max(usual, 1), most), most


def _prior_of(graph: str) -> str:
    """The prior that a graph belongs to, by its name."""
    return graph.removeprefix("priors/").rpartition("/")[0]


def _shapes(
    bundle: Bundle, graph: str, spec: GraphSpec, sizes: Mapping[str, int]
) -> dict[str, Shape]:
    shapes = {}
    for tensor in spec.inputs:
        shape = [axis_size(size, sizes) for size in tensor.shape]
        if None in shape:
            raise VqtrtError(
                f"{bundle.path}: the graph {graph!r} has an input {tensor.name} {tensor.shape}, "
                "and no profile has all these sizes; export the run again"
            )
        shapes[tensor.name] = tuple(size for size in shape if size is not None)
    return shapes
