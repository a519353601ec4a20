import dataclasses
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vqtrt.config.location import find_model
from vqtrt.data.images.open import open_images
from vqtrt.engines.choose import open_engine
from vqtrt.engines.options import EngineOptions
from vqtrt.errors import VqtrtError
from vqtrt.formats.codes import read_codes
from vqtrt.images.encode import encode_source
from vqtrt.images.score import score_codes
from vqtrt.images.tokenizer import ImageTokenizer
from vqtrt.jobs.score import score_data
from vqtrt.priors.runs import trained_priors


def direct(run, codes):
    """Bits a code by torch's cross entropy."""
    prior = trained_priors(run)["pixelcnn"]
    rows = torch.from_numpy(np.array(codes.codes, np.int64))
    rows = rows.reshape(*rows.shape[:3], -1)
    labels = torch.tensor(codes.labels) if prior.config.codes.classes else None
    with torch.inference_mode():
        logits = prior.load()(rows, labels).double()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), rows.flatten())
    return float(loss) / math.log(2)


@pytest.mark.parametrize(
    ("run", "name"),
    [("tiny_prior", "onnxruntime"), ("tiny_prior", "torch"), ("tiny_prior2", "torch")],
)
def test_equals_the_cross_entropy(request, run, name):
    path = request.getfixturevalue(run)
    engine = open_engine(find_model(path), EngineOptions(name))
    codes = read_codes(path / "priors" / "pixelcnn.npy")
    found = score_codes(engine, "pixelcnn", codes, batch_size=64)
    assert found["bits_per_code"] == pytest.approx(direct(path, codes), rel=1e-6)
    books = engine.info.num_codebooks
    values = np.asarray(codes.codes).reshape(-1, books)
    shares = [np.bincount(column, minlength=16) / len(values) for column in values.T]
    entropy = np.mean([-sum(p * math.log2(p) for p in share if p) for share in shares])
    assert found["unigram_bits"] == pytest.approx(entropy, rel=1e-9)
    assert found["gain_bits"] == found["unigram_bits"] - found["bits_per_code"]
    assert found["prior_bits_per_dim"] == pytest.approx(found["bits_per_code"] * books / 48)
    assert (found["rows"], found["engine"]) == (len(codes.codes), name)
    odd = score_codes(engine, "pixelcnn", codes, batch_size=7)
    assert odd["bits_per_code"] == pytest.approx(found["bits_per_code"], rel=1e-6)


def test_images_are_encoded_first(tiny_prior):
    model = find_model(tiny_prior)
    tokenizer = ImageTokenizer(open_engine(model), location=model)
    codes = str(tiny_prior / "priors" / "pixelcnn.npy")
    found, expected = (
        score_data(
            data,
            lambda out: encode_source(
                tokenizer, open_images("shapes:200", "train"), out, root="shapes", workers=1
            ),
            lambda path: score_codes(tokenizer.engine, "pixelcnn", read_codes(path)),
        )
        for data in ("shapes:200", codes)
    )
    assert found == expected


def test_codes_that_do_not_fit(tiny_prior, tiny_prior2, tmp_path):
    engine = open_engine(find_model(tiny_prior))
    stranger = read_codes(tiny_prior2 / "priors" / "pixelcnn.npy")
    with pytest.raises(VqtrtError, match="another tokenizer"):
        score_codes(engine, "pixelcnn", stranger)
    bare = tmp_path / "bare.npy"
    shutil.copy(tiny_prior / "priors" / "pixelcnn.npy", bare)
    with pytest.raises(VqtrtError, match="conditioned on"):
        score_codes(engine, "pixelcnn", read_codes(bare))
    unconditional = open_engine(find_model(tiny_prior2), EngineOptions("torch"))
    for shape, message in (
        ((0, 4, 4, 2), "no rows"),
        ((1, 4, 4, 3), "shape"),
        ((1, 9, 4, 2), "9x4"),
    ):
        np.save(bare, np.zeros(shape, np.uint8))
        with pytest.raises(VqtrtError, match=message):
            score_codes(unconditional, "pixelcnn", read_codes(bare))
    np.save(bare, np.zeros((1, 4, 4, 2), np.uint8))
    assert score_codes(unconditional, "pixelcnn", read_codes(bare))["rows"] == 1


def test_no_rows_of_a_prior_with_classes(tiny_prior: Path) -> None:
    engine = open_engine(find_model(tiny_prior))
    codes = read_codes(tiny_prior / "priors" / "pixelcnn.npy")
    assert codes.header is not None
    assert codes.header.classes  # or the prior would not look at the labels
    empty = dataclasses.replace(codes, codes=codes.codes[:0], files=(), labels=())
    with pytest.raises(VqtrtError, match="holds no rows: there is nothing to score"):
        score_codes(engine, "pixelcnn", empty)
