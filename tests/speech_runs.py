"""Runs on speech that nobody trained: random weights, with a codebook that makes many codes."""

import shutil
from pathlib import Path

import numpy as np
import torch
from shared_runs import shared

from vqtrt.config.audio import SpeechConfig
from vqtrt.config.location import ModelLocation, find_model
from vqtrt.config.settings import parse_settings
from vqtrt.export.run import export_bundle
from vqtrt.models.audio import SpeechVQVAE
from vqtrt.models.weights import save_weights
from vqtrt.system.atomic import write_text

RATE, STRIDE = 8000, 16
CONV = {"kind": "conv", "stem_hidden": 4, "blocks": 1, "stft_sizes": [64, 128]}
WAVENET = {
    "kind": "wavenet",
    "layers": 6,
    "cycles": 2,
    "channels": 8,
    "head": 8,
    "hop": 8,
    "unroll": 2,
    "frame_channels": 5,
}
FRONT = {"front": {"n_fft": 32, "hop": 8, "bands": 6}, "strides": [2]}


def config(**model) -> SpeechConfig:
    """16 samples a code of 16, two speakers; strided convolutions and a conv decoder."""
    settings = {
        "recipe": "tiny",
        "model": {
            "hidden": 12,
            "stem_hidden": 6,
            "strides": [2, 2, 2, 2],
            "residual_blocks": 1,
            "residual_hidden": 8,
            "speaker_dim": 4,
            "speakers": ["ann", "bob"],
            "decoder": CONV,
            "quantizer": {"codebook_size": 16, "dim": 6},
        }
        | model,
        "data": {"preprocessing": {"sample_rate": RATE}},
    }
    return parse_settings(SpeechConfig, settings, "tiny")


def model(**settings) -> SpeechVQVAE:
    """A model of `config` with weights that say something."""
    made = config(**settings)
    torch.manual_seed(0)
    built = SpeechVQVAE(made.model, RATE).eval().requires_grad_(False)
    for name, parameter in built.named_parameters():
        if name.endswith("weight") and parameter.ndim > 1:
            parameter.mul_(1.7)
        elif name.endswith("bias"):
            parameter.add_(0.1 * torch.randn_like(parameter))
    audio = torch.from_numpy(recordings([STRIDE * 400])[0])[None]
    z = built.encoder(audio)[0].T
    built.quantizer.codebook[0] = z[torch.randperm(len(z))[: made.model.quantizer.codebook_size]]
    return built


def recordings(lengths, seed: int = 0) -> list[np.ndarray]:
    """Noise that grows and fades, float32 in [-1, 1]."""
    rng = np.random.default_rng(seed)
    made = []
    for length in lengths:
        swell = np.sin(np.arange(length) / 300) ** 2
        made.append((0.3 * swell * rng.standard_normal(length)).clip(-1, 1).astype(np.float32))
    return made


def write_run(path: Path, **settings) -> Path:
    """A run's folder."""
    path.mkdir(parents=True)
    write_text(path / "config.yaml", config(**settings).to_yaml())
    save_weights(model(**settings), path / "model.safetensors")
    return path


def exported(kind: str) -> ModelLocation:
    """The run `conv` or `wavenet` with its bundle; shared: copy it before you change it."""
    settings = {"decoder": CONV} if kind == "conv" else {"decoder": WAVENET} | FRONT

    def make(path: Path) -> None:
        export_bundle(find_model(write_run(path, **settings)))

    return find_model(shared(f"untrained/{kind}", make))


def copied(kind: str, folder: Path) -> ModelLocation:
    """The same, one's own."""
    model = exported(kind)
    return find_model(shutil.copytree(model.run, folder / kind))
