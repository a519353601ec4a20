"""`vqtrt eval --bits-per-dim`: the three models, a prior, and what it refuses."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from doubles import vqtrt

from vqtrt.models.heads import normalize
from vqtrt.models.runs import ImageRun
from vqtrt.priors.runs import PriorRun

SMALL = [
    ("model.hidden", 8),
    ("model.residual_hidden", 4),
    ("model.quantizer.codebook_size", 16),
    ("model.quantizer.dim", 4),
    ("model.quantizer.num_codebooks", 2),
    ("model.likelihood.samples", 3),
    ("model.likelihood.positions", 64),
    ("model.likelihood.gaussian_channels", 4),
    ("data.holdout", 8),
    ("train.batch_size", 8),
    ("train.steps", 3),
]
IMAGES = "shapes:12:5"


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(kind: str, *options: str) -> Path:
        sets = [part for key, value in SMALL for part in ("--set", f"{key}={value}")]
        recipe = f"cifar10-likelihood-{kind}"
        assert vqtrt("train", recipe, "--data", "shapes:100", "-o", kind, *sets, *options) == 0
        return tmp_path / kind

    return run


def bits(capfd, *arguments: object) -> dict:
    capfd.readouterr()
    assert vqtrt("eval", IMAGES, "--bits-per-dim", "--json", *arguments) == 0
    return json.loads(capfd.readouterr().out)


def test_a_vq_vae_with_a_uniform_and_with_a_trained_prior(train, capfd):
    run = train("vqvae")
    found = bits(capfd, "-m", run)
    assert found["latents"] == "codes"
    assert found["images"] == 12
    assert found["latent_bits"] == pytest.approx(2 * 64 * 4 / (32 * 32 * 3))
    assert found["bits_per_dim"] == pytest.approx(
        found["latent_bits"] + found["reconstruction_bits"]
    )
    assert 0 < found["standard_error"] < 1
    assert "bits_per_dim_multi" not in bits(capfd, "-m", run, "--samples", 5)
    sets = ["prior.layers=2", "prior.channels=4", "prior.head=8", "train.steps=2"]
    told = [part for text in sets for part in ("--set", text)]
    assert vqtrt("train-prior", "--data", "shapes:60", "-m", run, "--name", "small", *told) == 0
    scored = bits(capfd, "-m", run, "--prior", "small")
    assert scored["bits_per_dim"] == pytest.approx(found["bits_per_dim"])
    assert scored["prior_bits_per_dim"] == pytest.approx(
        scored["prior_latent_bits"] + scored["reconstruction_bits"]
    )
    assert scored["prior_latent_bits"] == pytest.approx(by_hand(run), rel=1e-4)
    assert vqtrt("eval", IMAGES, "--bits-per-dim", "-m", run, "--prior", "other") == 1
    assert "has no prior 'other'; it has small" in capfd.readouterr().err


def by_hand(run: Path) -> float:
    """What the prior `small` says of the codes, by the formula."""
    from vqtrt.data.images.open import open_images

    source = open_images(IMAGES, "test")
    model, prior = ImageRun.open(run).load_model(), PriorRun.open(run / "priors/small").load()
    nats = 0.0
    for item in source.items():
        image = torch.from_numpy(np.ascontiguousarray(source.read(item)))[None]
        codes = model.quantizer.encode(model.encoder(normalize(image)))
        labels = torch.tensor([item.label])
        p = torch.distributions.Categorical(logits=prior(codes, labels).double())
        nats -= float(p.log_prob(codes).sum())
    return nats / math.log(2) / (12 * 32 * 32 * 3)


def test_a_model_with_a_likelihood_goes_through_the_chain(train, capfd):
    run = train("vqvae")
    assert vqtrt("export", run) == 0
    assert vqtrt("encode", IMAGES, "-m", run, "-o", "codes.npy") == 0
    assert vqtrt("decode", "codes.npy", "-m", run, "-o", "back") == 0
    assert vqtrt("eval", IMAGES, "-m", run) == 0
    assert np.load("codes.npy").shape == (12, 8, 8, 2)


def test_a_continuous_vae(train, capfd):
    run = train("vae")
    assert f"next: vqtrt eval DATA --model {run.name} --bits-per-dim" in capfd.readouterr().err
    found = bits(capfd, "-m", run, "--samples", 20)
    assert (found["latents"], found["samples"]) == ("gaussian", 20)
    assert found["bits_per_dim_multi"] < found["bits_per_dim"]
    assert bits(capfd, "-m", run, "--samples", 20) == found
    for command in (("export", run), ("encode", IMAGES, "-o", "x.npy"), ("eval", IMAGES)):
        told = command if command[0] == "export" else (*command, "-m", run)
        assert vqtrt(*told) == 1
        assert "is a baseline without codes" in capfd.readouterr().err
    assert vqtrt("eval", IMAGES, "--bits-per-dim", "-m", run, "--prior", "x") == 1
    assert "--prior scores codes" in capfd.readouterr().err


def test_vimco(train, capfd):
    run = train("vimco")
    found = bits(capfd, "-m", run, "--samples", 10)
    assert found["bits_per_dim_multi"] <= found["bits_per_dim"]
    assert vqtrt("train", "--resume", "-o", run, "--set", "train.steps=5") == 0


def test_a_run_that_was_broken_off_goes_on_exactly(train, tmp_path):
    whole = train("vae")
    part = tmp_path / "part"
    sets = [text for key, value in SMALL[:-1] for text in ("--set", f"{key}={value}")]
    sets += ["--set", "train.checkpoint_every=1", "--set", "model.likelihood.kl_warmup=1"]
    base = ("train", "cifar10-likelihood-vae", "--data", "shapes:100", *sets)
    assert vqtrt(*base, "-o", "once", "--set", "train.steps=3") == 0
    assert whole.exists()
    # The weight of the KL depends on all steps, so a broken run keeps their number.
    import shutil

    shutil.copytree("once", part)
    shutil.rmtree(part / "checkpoints/step-00000003")
    assert vqtrt("train", "--resume", "-o", part) == 0
    assert (part / "model.safetensors").read_bytes() == Path("once/model.safetensors").read_bytes()


def test_what_has_no_likelihood_is_an_error(tiny_run, tiny_bundle, capfd):
    assert vqtrt("eval", IMAGES, "--bits-per-dim", "-m", tiny_run) == 1
    assert "has no likelihood" in capfd.readouterr().err
    assert vqtrt("eval", IMAGES, "--bits-per-dim", "-m", tiny_run, "--grid", "x.png") == 1
    assert "--grid: has no effect with --bits-per-dim" in capfd.readouterr().err
    assert vqtrt("eval", IMAGES, "-m", tiny_run, "--samples", 5) == 1
    assert "--samples: is for --bits-per-dim" in capfd.readouterr().err
