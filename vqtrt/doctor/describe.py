"""What a path is: a run, a bundle or a codes file, in a few facts (`vqtrt info`)."""

import json
from pathlib import Path
from typing import Any

from vqtrt.config.audio import SpeechConfig
from vqtrt.config.images import Config, load_any_config
from vqtrt.config.location import find_model
from vqtrt.errors import VqtrtError
from vqtrt.formats.audio_codes import ClipCodes, open_codes
from vqtrt.formats.bundle import Bundle, BundleInfo
from vqtrt.formats.codes import Header
from vqtrt.formats.precision import graph_key
from vqtrt.formats.shards import done_shards, is_sharded, read_job
from vqtrt.system.files import open_file


def describe(path: Path) -> dict[str, Any]:
    """Facts about an artefact, ready for JSON; `what` is "run", "bundle", "codes" or "shards"."""
    if path.suffix == ".npy":
        return _codes(path)
    if is_sharded(path):
        return _shards(path)
    if (path / "bundle.json").is_file():
        return _bundle(path)
    if (path / "config.yaml").is_file():
        return _run(path)
    if path.exists():
        raise VqtrtError(f"{path} is neither a run, nor a bundle, nor codes (.npy, or shards)")
    raise VqtrtError(f"{path}: no such file or folder")


def _run(path: Path) -> dict[str, Any]:
    found = find_model(path)  # a config.yaml may be that of something else
    config = load_any_config(path / "config.yaml")
    last = _last_figures(path / "metrics.jsonl")
    steps = {"steps_planned": config.train.steps, "steps_done": last.get("step", 0)}
    facts: dict[str, Any] = {"what": "run", "recipe": config.recipe, "data": config.data.path}
    if isinstance(config, SpeechConfig):
        facts |= _speech(config) | steps
        figures: tuple[str, ...] = ("reconstruction", "spectrum", "perplexity")
    else:
        facts |= _images(config) | steps
        figures = ("nmse", "perplexity")
    if last["damaged_lines"]:
        facts["damaged_lines"] = last["damaged_lines"]
    return facts | {
        **{f"held_out_{name}": last.get(name) for name in figures},
        "trained": (path / "model.safetensors").is_file(),
        "bundle": str(found.bundle) if found.bundle else None,
    }


def _images(config: Config) -> dict[str, Any]:
    size, quantizer = config.data.preprocessing, config.model.quantizer
    stride = config.model.stride
    return {
        "image_size": [size.height, size.width],
        "code_shape": [size.height // stride, size.width // stride],
        "codebook_size": quantizer.codebook_size,
        "num_codebooks": quantizer.num_codebooks,
        "quantizer": quantizer.kind,
    }


def _speech(config: SpeechConfig) -> dict[str, Any]:
    model, rate = config.model, config.data.preprocessing.sample_rate
    return {
        "kind": "speech",
        "sample_rate": rate,
        "stride": model.stride,
        "codes_per_second": rate / model.stride,
        "decoder": model.decoder.kind,
        "speakers": list(model.speakers),
        "codebook_size": model.quantizer.codebook_size,
        "quantizer": model.quantizer.kind,
    }


def _last_figures(metrics: Path) -> dict[str, Any]:
    """The newest figures of a run, and how many `damaged_lines` there are, such as a torn last."""
    figures: dict[str, Any] = {"damaged_lines": 0}
    if metrics.is_file():
        with open_file(metrics) as lines:
            for line in lines:
                try:
                    values = json.loads(line)
                    step, evaluation = values["step"], values.get("evaluation", {})
                    if type(step) is not int or not isinstance(evaluation, dict):
                        raise TypeError("no line of figures")
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                    figures["damaged_lines"] += 1
                    continue
                figures |= {"step": step} | evaluation
    return figures


def _bundle(path: Path) -> dict[str, Any]:
    bundle = Bundle.open(path)
    info = bundle.info
    for graph in info.graphs:
        bundle.graph_bytes(graph)
    return {
        "what": "bundle",
        "format_version": info.format_version,
        "kind": info.kind,
        "codebook_size": info.model.codebook_size,
        "num_codebooks": info.model.num_codebooks,
        "stride": info.model.stride,
        **_input(info),
        "graphs": {
            name: {
                "file": spec.file,
                "inputs": [_tensor(t.dtype, t.name, t.shape) for t in spec.inputs],
                "outputs": [_tensor(t.dtype, t.name, t.shape) for t in spec.outputs],
            }
            for name, spec in info.graphs.items()
        },
        "engines": _engines(bundle),
        "opset": info.opset,
        "made_by": f"vqtrt {info.vqtrt_version}",
        "from_run": info.source.run,
        "recipe": info.source.recipe,
        "weights_sha256": info.source.weights_sha256,
        "bundle_sha256": bundle.sha256,
        "hashes": "match",
    }


def _engines(bundle: Bundle) -> dict[str, Any]:
    """TensorRT engines by the name of their files, from their `.json`: no plan is read."""
    from vqtrt.engines.tensorrt.plans import read_infos
    from vqtrt.engines.tensorrt.trust import is_known

    found: dict[str, Any] = {}
    for path, info in read_infos(bundle, f"`vqtrt export {bundle.path} --target PACKAGE`"):
        if isinstance(info, str):
            found[path.stem] = {"problem": info}
            continue
        fields = info.model_dump(
            include={
                *("graph", "package", "package_version", "precision", "gpu", "capturable"),
                *("compute_capabilities", "plan_bytes", "activation_bytes"),
            }
        )
        shapes = {
            name: ", ".join("x".join(map(str, shape)) for shape in each)
            for name, each in info.profile.items()
        }
        graph = bundle.info.graphs.get(graph_key(info.precision, info.graph))
        found[path.stem] = fields | {
            "profile": shapes,
            "fits_the_graph": graph is not None and graph.sha256 == info.graph_sha256,
            "trusted": is_known(info.plan_sha256),
        }
    return found


def _input(info: BundleInfo) -> dict[str, Any]:
    """What the model takes."""
    if info.preprocessing is not None:
        return {"image_size": [info.preprocessing.height, info.preprocessing.width]}
    if info.speech is None:
        return {}
    return {
        "sample_rate": info.speech.preprocessing.sample_rate,
        "codes_per_second": info.speech.preprocessing.sample_rate / info.model.stride,
        "decoder": info.speech.decoder,
        "speakers": list(info.speech.speakers),
    }


def _tensor(dtype: str, name: str, shape: tuple[int | str, ...]) -> str:
    return f"{name}: {dtype} ({', '.join(map(str, shape))})"


def _codes(path: Path) -> dict[str, Any]:
    codes = open_codes(path)
    if isinstance(codes, ClipCodes):
        return _clip_codes(codes)
    facts: dict[str, Any] = {
        "what": "codes",
        "rows": len(codes.codes),
        "shape": list(codes.codes.shape[1:]),
        "dtype": str(codes.codes.dtype),
    }
    if codes.header is None:
        return facts | {"json": None}
    return facts | {
        "codebook_size": codes.header.codebook_size,
        "image_size": list(codes.header.image_size),
        "classes": list(codes.header.classes),
        **_origin(codes.header, len(codes.rejected)),
    }


def _shards(path: Path) -> dict[str, Any]:
    job = read_job(path)
    done = done_shards(path, job)
    return {
        "what": "shards",
        "kind": job.header.kind,
        "shards": len(job.shards),
        "missing": len(job.shards) - len(done),
        "shard_size": job.shard_size,
        "format": job.format,
        "row_shape": list(job.header.row_shape),
        "items": job.items,
        "rows": sum(each.rows for each in done.values()),
        "codebook_size": job.header.codebook_size,
        "classes": list(job.header.classes),
        **_origin(job.header, sum(each.rejected for each in done.values())),
    }


def _clip_codes(codes: ClipCodes) -> dict[str, Any]:
    header = codes.header
    facts: dict[str, Any] = {
        "what": "codes",
        "kind": "speech",
        "clips": len(codes),
        "codes": len(codes.codes),
        "dtype": str(codes.codes.dtype),
    }
    if header is None:
        return facts | {"json": None}
    return facts | {
        "codebook_size": header.codebook_size,
        "sample_rate": header.sample_rate,
        "stride": header.stride,
        "codes_per_second": header.sample_rate / header.stride,
        "seconds": sum(codes.samples) / header.sample_rate,
        "speakers": list(header.classes),
        **_origin(header, len(codes.rejected)),
    }


def _origin(header: Header, rejected: int) -> dict[str, Any]:
    return {
        "rejected": rejected,
        "from": header.root,
        "model": header.model,
        "weights_sha256": header.weights_sha256,
        "made_by": f"vqtrt {header.vqtrt_version}",
    }
