import numpy as np
import pytest
import torch

from vqtrt.config.images import QuantizerConfig
from vqtrt.models.quantize import EMAQuantizer, GradientQuantizer, build_quantizer
from vqtrt.models.quantize.distances import distance_terms, nearest_codes

KINDS = ("ema", "gradient")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def build(kind, **settings):
    settings = {"codebook_size": 7, "dim": 3, "restart_below": 0} | settings
    quantizer = build_quantizer(QuantizerConfig(kind=kind, **settings))
    with torch.no_grad():
        quantizer.codebook.copy_(torch.randn_like(quantizer.codebook))
    return quantizer


def latents(quantizer, n=2, h=3, w=4):
    config = quantizer.config
    return torch.randn(n, config.num_codebooks * config.dim, h, w)


def reference_codes(z, codebook):
    """Codes (N, h, w, C) by the definition, in float64, one distance after another."""
    z, codebook = z.double().numpy(), codebook.detach().double().numpy()
    c, _, d = codebook.shape
    n, _, h, w = z.shape
    codes = np.empty((n, h, w, c), np.int64)
    for i, y, x, book in np.ndindex(codes.shape):
        vector = z[i, book * d : (book + 1) * d, y, x]
        codes[i, y, x, book] = np.argmin([((vector - e) ** 2).sum() for e in codebook[book]])
    return codes


def reference_vectors(codes, codebook):
    codebook = codebook.detach().numpy()
    n, h, w, c = codes.shape
    d = codebook.shape[2]
    out = np.empty((n, c * d, h, w), np.float32)
    for i, y, x, book in np.ndindex(codes.shape):
        out[i, book * d : (book + 1) * d, y, x] = codebook[book, codes[i, y, x, book]]
    return out


def test_build_quantizer_takes_the_kind():
    assert isinstance(build("ema"), EMAQuantizer)
    assert isinstance(build("gradient"), GradientQuantizer)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_nearest_codes_is_the_smallest_distance(shape):
    codebook, z = torch.randn(50, 6), torch.randn(*shape, 6)
    codes = nearest_codes(z, *distance_terms(codebook))
    distances = (z.double()[..., None, :] - codebook.double()).square().sum(-1)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, distances.argmin(-1))


def test_ties_go_to_the_first_entry():
    codebook = torch.tensor([[9.0, 9.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    z = torch.tensor([[0.5, 0.5], [0.0, 1.0], [1.0, 1.0], [2.0, 0.0]])
    assert nearest_codes(z, *distance_terms(codebook)).tolist() == [1, 1, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_codebooks", [1, 3])
def test_forward_against_reference(kind, num_codebooks):
    quantizer = build(kind, num_codebooks=num_codebooks).eval()
    z = latents(quantizer)
    codes = reference_codes(z, quantizer.codebook)
    out = quantizer(z)
    assert out.codes.dtype == torch.int64
    assert out.codes.shape == (2, 3, 4, num_codebooks)
    np.testing.assert_array_equal(out.codes, codes)
    np.testing.assert_array_equal(quantizer.encode(z), codes)
    vectors = reference_vectors(codes, quantizer.codebook)
    np.testing.assert_array_equal(quantizer.lookup(out.codes).detach(), vectors)
    np.testing.assert_allclose(out.vectors.detach(), vectors, atol=1e-6)
    entropies = []
    for book in range(num_codebooks):
        p = np.bincount(codes[..., book].ravel(), minlength=7) / codes[..., book].size
        entropies.append(-sum(x * np.log(x) for x in p if x))
    assert out.perplexity.item() == pytest.approx(np.mean(np.exp(entropies)), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_gradient_passes_straight_through(kind, num_codebooks):
    quantizer = build(kind, num_codebooks=num_codebooks, beta=0)
    z = latents(quantizer).requires_grad_()
    passed = torch.randn_like(z)
    (quantizer(z).vectors * passed).sum().backward()
    assert torch.equal(z.grad, passed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [0.25, 2.0])
def test_commitment_gradient(kind, beta):
    quantizer = build(kind, beta=beta)
    z = latents(quantizer).requires_grad_()
    with torch.no_grad():
        chosen = quantizer.lookup(quantizer.encode(z)).clone()
    quantizer(z).loss.backward()
    expected = beta * 2 * (z.detach() - chosen) / z.numel()
    torch.testing.assert_close(z.grad, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_codebooks_are_independent(kind):
    quantizer = build(kind, num_codebooks=2).eval()
    z = latents(quantizer)
    before = quantizer.encode(z)
    other = z.clone()
    other[:, 3:] = torch.randn_like(other[:, 3:])
    after = quantizer.encode(other)
    assert torch.equal(before[..., 0], after[..., 0])
    assert not torch.equal(before[..., 1], after[..., 1])
    with torch.no_grad():
        quantizer.codebook[1] = 100.0
    after = quantizer.encode(z)
    assert torch.equal(before[..., 0], after[..., 0])
    assert (after[..., 1] == 0).all()


def rows(z, c, d):
    """The latents (C, M, D) of z (N, C·D, h, w), by plain indexing."""
    return [
        [z[i, b * d : (b + 1) * d, y, x] for i in range(len(z)) for y, x in np.ndindex(z.shape[2:])]
        for b in range(c)
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_start_from_takes_rows_of_the_data(kind, num_codebooks):
    quantizer = build(kind, num_codebooks=num_codebooks)
    z = latents(quantizer)
    quantizer.start_from(z)
    for book, vectors in zip(quantizer.codebook, rows(z, num_codebooks, 3), strict=True):
        taken = [[torch.equal(entry, vector) for vector in vectors].index(True) for entry in book]
        assert len(set(taken)) == 7
    assert torch.equal(quantizer.usage, torch.full_like(quantizer.usage, 24 / 7))


@pytest.mark.parametrize("kind", KINDS)
def test_start_from_fewer_latents_than_codes_keeps_entries_apart(kind):
    quantizer = build(kind, codebook_size=40)
    z = latents(quantizer)
    quantizer.start_from(z)
    (book,) = quantizer.codebook.detach()
    apart = torch.cdist(book, book) + torch.eye(40)
    assert apart.min() > 0
    (vectors,) = rows(z, 1, 3)
    assert torch.cdist(book, torch.stack(vectors)).amin(1).max() < 0.02


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_dead_codes_restart_from_the_data_and_live_ones_stay(kind, num_codebooks):
    settings = {"num_codebooks": num_codebooks, "restart_below": 0.1}
    quantizer = build(kind, **settings)
    plain = build(kind, **settings | {"restart_below": 0})
    usage = torch.full((num_codebooks, 7), 10.0)
    dead = torch.zeros(num_codebooks, 7, dtype=torch.bool)
    dead[:, 2] = True
    dead[-1, 5] = True
    usage[dead] = 0.0
    for each in (quantizer, plain):
        each.load_state_dict(plain.state_dict())
        with torch.no_grad():
            # Too far to be chosen in this step.
            each.codebook[dead] = 1000.0
            each.usage.copy_(usage)
            if kind == "ema":
                each.total.copy_(each.codebook * usage[..., None])
    z = latents(quantizer)
    plain(z)
    quantizer(z)
    assert torch.equal(quantizer.codebook[~dead], plain.codebook[~dead])
    assert torch.equal(quantizer.usage[~dead], plain.usage[~dead])
    data = rows(z, num_codebooks, 3)
    for book, code in dead.nonzero().tolist():
        assert any(torch.equal(quantizer.codebook[book, code], vector) for vector in data[book])
        # Once restarted it counts as used, or it would be restarted at every step.
        assert quantizer.usage[book, code] == pytest.approx(plain.usage[book].sum().item() / 7)
    if kind == "ema":
        torch.testing.assert_close(
            quantizer.total[dead], quantizer.codebook[dead] * quantizer.usage[dead][:, None]
        )


@pytest.mark.parametrize("kind", KINDS)
def test_restart_below_zero_never_restarts(kind):
    quantizer = build(kind, restart_below=0)
    with torch.no_grad():
        quantizer.codebook[0, 3] = 1000.0
        if kind == "ema":
            quantizer.total.copy_(quantizer.codebook)
    for _ in range(5):
        quantizer(latents(quantizer))
    assert quantizer.codebook[0, 3].min() > 900


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_changes_nothing(kind):
    quantizer = build(kind, restart_below=0.5)
    quantizer.usage[:, 0] = 0
    quantizer.eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(latents(quantizer))
    quantizer.encode(latents(quantizer))
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_keeps_distances_in_float32(kind):
    quantizer = build(kind, codebook_size=512, dim=8).eval()
    # Entries so near to each other that bfloat16 could not tell them apart.
    with torch.no_grad():
        quantizer.codebook.mul_(1e-3).add_(1.0)
    z = 1 + 1e-3 * latents(quantizer, n=4)
    codes = quantizer(z).codes
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(z)
        encoded = quantizer.encode(z)
    assert torch.equal(out.codes, codes)
    assert torch.equal(encoded, codes)
    assert out.vectors.dtype == out.loss.dtype == quantizer.codebook.dtype == torch.float32
    quantizer.train()
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(z.bfloat16())
    assert out.vectors.dtype == out.loss.dtype == quantizer.codebook.dtype == torch.float32


@pytest.mark.parametrize("num_codebooks", [1, 3])
@pytest.mark.parametrize("kind", ["ema", "gradient"])
def test_the_deployed_form_means_the_same_codes_and_vectors(kind, num_codebooks):
    quantizer = build_quantizer(
        QuantizerConfig(kind=kind, codebook_size=8, dim=4, num_codebooks=num_codebooks)
    ).eval()
    with torch.no_grad():
        quantizer.codebook.copy_(torch.randn_like(quantizer.codebook))
    assert torch.equal(quantizer.entries(), quantizer.codebook)
    deployed = quantizer.deployed()
    z = torch.randn(2, 4 * num_codebooks, 3, 5)
    codes = quantizer.encode(z)
    assert torch.equal(deployed.encode(z.permute(0, 2, 3, 1)), codes)
    assert torch.equal(deployed.lookup(codes).permute(0, 3, 1, 2), quantizer.lookup(codes))
    margins = deployed.double().margins(
        z.double().permute(0, 2, 3, 1).flatten(0, 2), codes.flatten(0, 2)
    )
    assert margins.max() < 1e-6
    with torch.no_grad():
        quantizer.codebook.add_(1)
    assert torch.equal(deployed.encode(z.double().permute(0, 2, 3, 1)), codes)  # a copy
