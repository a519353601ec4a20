from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizer_parts import parts
from torch import nn
from vector_quantize_pytorch import FSQ

import vqtrt
from vqtrt.errors import VqtrtError
from vqtrt.export import export_tokenizer
from vqtrt.export.own import adapt, tokenizer
from vqtrt.export.own.tokenizer import random_images
from vqtrt.formats.bundle import Bundle


class Shifted(FSQ):
    """A subclass whose codes are not those of its class."""

    def forward(self, z):
        vectors, codes = super().forward(z)
        return vectors, (codes + 1) % self.codebook_size


def test_an_export_whose_codes_differ_fails_and_keeps_the_old_bundle(tmp_path):
    out, made = tmp_path / "bundle", parts()
    old = export_tokenizer(out, height=8, width=8, verify=False, **made).sha256
    wrong = made | {"quantizer": Shifted([8, 5], dim=6)}
    with pytest.raises(VqtrtError, match=r"is not kept: 64 of 64 codes differ \(margin up to"):
        export_tokenizer(out, height=8, width=8, **wrong)
    assert Bundle.open(out).sha256 == old
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


WRONG = {
    r"the encoder makes \(2, 6, 64\) of 2 images": {
        "encoder": nn.Sequential(nn.Conv2d(3, 6, 1), nn.Flatten(2))
    },
    "makes 5 channels, but the quantizer takes 6": {"encoder": nn.Conv2d(3, 5, 4, 4)},
    "makes 4x2 vectors of 8x8 pixels": {"encoder": nn.Conv2d(3, 6, (2, 4), (2, 4))},
    "makes 3x3 vectors of 8x8 pixels: height and width have to be multiples": {
        "encoder": nn.Conv2d(3, 6, 3, 3, 1)
    },
    r"the encoder on 2 images of 8x8 fails \(RuntimeError": {"encoder": nn.Conv2d(4, 6, 4, 4)},
    "the encoder gives a tuple": {"encoder": nn.MaxPool2d(4, return_indices=True)},
    "the encoder is a function": {"encoder": lambda x: x},
    "encoder.float": {"encoder": nn.Conv2d(3, 6, 4, 4).half()},
    r"the decoder makes \(2, 3, 2, 2\) of 2x2 codes": {"decoder": nn.Conv2d(6, 3, 1)},
    r"the decoder on vectors \(2, 6, 2, 2\) fails": {"decoder": nn.Conv2d(4, 3, 1)},
    "exported: ndarray; pass a codebook tensor": {"quantizer": np.zeros((4, 6))},
    "size 0x8": {"height": 0},
    "scale 0": {"scale": 0.0},
}


@pytest.mark.parametrize("message", WRONG)
def test_parts_that_do_not_fit_are_refused(message, tmp_path):
    settings = {"height": 8, "width": 8} | parts() | WRONG[message]
    with pytest.raises(VqtrtError, match=message) as caught:
        export_tokenizer(tmp_path / "bundle", **settings)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_is_no_bundle_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("long")
    for out, message in (
        (tmp_path, "not empty and no bundle"),
        (tmp_path / "thesis.txt", "a file"),
    ):
        with pytest.raises(VqtrtError, match=message):
            export_tokenizer(out, height=8, width=8, **parts())
    assert (tmp_path / "thesis.txt").read_text() == "long"


def test_what_the_exporter_cannot_trace_is_an_error_that_says_so(tmp_path):
    class Branching(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) if x.mean() > -9 else x

    made = parts() | {"encoder": Branching(3, 6, 4, 4)}
    with pytest.raises(VqtrtError, match="the encoder cannot be exported to ONNX") as caught:
        export_tokenizer(tmp_path / "bundle", height=8, width=8, **made)
    assert "\n" not in str(caught.value)


def test_verification_without_a_runtime_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "installed", lambda package: False)
    with pytest.raises(VqtrtError, match="needs a runtime: pip install"):
        export_tokenizer(tmp_path / "bundle", height=8, width=8, **parts())


class Scan(nn.Module):
    """An LSTM over the pixels of a grid, which the exporter has to leave free."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.lstm = nn.Conv2d(3, 6, 4, 4), nn.LSTM(6, 6, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        z = self.convolution(images)
        scanned: torch.Tensor = self.lstm(z.flatten(2).mT)[0]
        return scanned.mT.reshape(z.shape)


def test_an_lstm_is_verified_at_other_lengths(tmp_path: Path) -> None:
    made = parts() | {"encoder": Scan()}
    bundle = export_tokenizer(tmp_path / "bundle", height=8, width=16, **made)
    assert vqtrt.load(bundle.path).encode(random_images(3, 16, 8)).shape == (3, 4, 2)


class Ramp(nn.Conv2d):
    """Adds something whose length follows from a number that the exporter keeps."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        z = super().forward(images)
        return z + torch.linspace(0, 1, int(z.shape[2]))[:, None]


def test_a_size_that_the_encoder_fixes_is_refused_by_name(tmp_path: Path) -> None:
    made = parts() | {"encoder": Ramp(3, 6, 4, 4)}
    settings = {"height": 16, "width": 16} | made
    with pytest.raises(VqtrtError, match=r"the size .h. of codes has to be free.*fixed_size=True"):
        export_tokenizer(tmp_path / "bundle", **settings)
    assert not list(tmp_path.iterdir())


def test_other_sizes_are_part_of_the_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def verify(bundle: Bundle, images: np.ndarray, parts: Any) -> dict[str, object]:
        seen.append(images.shape)
        return real(bundle, images, parts) | {"passed": len(seen) < 3}

    real = tokenizer.verify_parts
    monkeypatch.setattr(tokenizer, "verify_parts", verify)
    with pytest.raises(VqtrtError, match="in torch at 32x8 pixels in a batch of 1, and is not"):
        export_tokenizer(tmp_path / "bundle", height=16, width=16, **parts())
    assert seen == [(16, 16, 16, 3), (3, 8, 32, 3), (1, 32, 8, 3)]


class Noise(nn.Module):
    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors + 0.1 * torch.randn_like(vectors)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_noise_in_eval_mode_is_said_as_such(name: str, tmp_path: Path) -> None:
    made = parts()
    made[name] = nn.Sequential(made[name], Noise())
    with pytest.raises(VqtrtError, match=f"the {name} gives something else each time"):
        export_tokenizer(tmp_path / "bundle", height=16, width=16, **made)


def test_an_older_package_of_quantizers_is_refused_by_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = FSQ([8, 5], dim=6)
    monkeypatch.setattr(adapt.importlib.metadata, "version", lambda name: "1.14.24")
    message = r'FSQ of .* 1\.14\.24 .*version 1\.30 or later is needed: pip install "vqtrt\[vq\]"'
    with pytest.raises(VqtrtError, match=message):
        export_tokenizer(
            tmp_path / "bundle", height=16, width=16, **parts() | {"quantizer": module}
        )

    # Without its metadata, by what it lacks.
    def missing(name: str) -> str:
        raise adapt.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(adapt.importlib.metadata, "version", missing)
    del module.bound_hard_clamp
    with pytest.raises(VqtrtError, match=r"bound_hard_clamp.*version 1\.30 or later is needed"):
        adapt.adapt(module)
