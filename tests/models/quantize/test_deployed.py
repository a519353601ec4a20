import copy

import pytest
import torch
from torch import nn
from vector_quantize_pytorch import FSQ, LFQ, ResidualVQ, SimVQ, VectorQuantize

from vqtrt.errors import VqtrtError
from vqtrt.export import export_tokenizer, verify_tokenizer
from vqtrt.export.own.adapt import adapt, answer
from vqtrt.export.own.tokenizer import random_images
from vqtrt.models.quantize.deployed import Nearest

DIM = 8
MODULES = {
    "vq": lambda: VectorQuantize(dim=DIM, codebook_size=128),
    "vq-image": lambda: VectorQuantize(dim=DIM, codebook_size=64, accept_image_fmap=True),
    "vq-channel-first": lambda: VectorQuantize(dim=DIM, codebook_size=64, channel_last=False),
    "vq-cosine": lambda: VectorQuantize(dim=DIM, codebook_size=64, use_cosine_sim=True),
    "vq-projected": lambda: VectorQuantize(
        dim=DIM, codebook_size=64, codebook_dim=3, layernorm_after_project_in=True
    ),
    "vq-heads": lambda: VectorQuantize(
        dim=DIM, codebook_size=64, codebook_dim=4, heads=3, separate_codebook_per_head=True
    ),
    "vq-heads-of-one-codebook": lambda: VectorQuantize(
        dim=DIM, codebook_size=64, codebook_dim=4, heads=2, use_cosine_sim=True
    ),
    "vq-stochastic": lambda: VectorQuantize(
        dim=DIM, codebook_size=64, stochastic_sample_codes=True
    ),
    "residual": lambda: ResidualVQ(dim=DIM, codebook_size=64, num_quantizers=4),
    "residual-projected-cosine": lambda: ResidualVQ(
        dim=DIM, codebook_size=64, num_quantizers=3, codebook_dim=5, use_cosine_sim=True
    ),
    "residual-shared": lambda: ResidualVQ(
        dim=DIM, codebook_size=64, num_quantizers=3, shared_codebook=True, quantize_dropout=True
    ),
    "fsq": lambda: FSQ([8, 5, 5, 5], dim=DIM),
    "fsq-two": lambda: FSQ([8, 6, 5], dim=DIM, num_codebooks=2, orthogonal_rotation=True),
    "fsq-hard": lambda: FSQ([7, 4], dim=DIM, bound_hard_clamp=True, keep_num_codebooks_dim=True),
    "fsq-symmetric": lambda: FSQ([4, 2, 5], dim=DIM, preserve_symmetry=True, channel_first=True),
    "fsq-symmetric-hard": lambda: FSQ(
        [4, 2, 5], dim=DIM, preserve_symmetry=True, bound_hard_clamp=True, noise_dropout=0.5
    ),
    "lfq": lambda: LFQ(dim=DIM, codebook_size=2**10),
    "lfq-two": lambda: LFQ(
        dim=DIM, codebook_size=2**4, num_codebooks=2, spherical=True, orthogonal_rotation=True
    ),
    "lfq-sequence": lambda: LFQ(
        dim=DIM, codebook_size=2**5, channel_first=False, codebook_scale=0.5
    ),
    "lfq-cosine": lambda: LFQ(
        dim=DIM, codebook_size=2**6, cosine_sim_project_in=True, soft_clamp_input_value=2.0
    ),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def vectors(n=40, h=5, w=5):
    """1,000 vectors, with an outlier and a zero among them."""
    z = torch.randn(n, DIM, h, w)
    z[0, :, 0, 0] = 0
    z[0, :, 0, 1] *= 100
    return z


def graph_codes(form, z):
    return form.encode(z.permute(0, 2, 3, 1))


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
@torch.no_grad()
def test_codes_and_vectors_are_those_of_the_package(make):
    module, z = make().eval(), vectors()
    form = adapt(module)
    codes, quantized = answer(module, z)
    assert codes.unique().numel() > 5
    assert codes.max() < form.codebook_size
    assert codes.shape == (40, 5, 5, form.num_codebooks)
    torch.testing.assert_close(graph_codes(form, z).long(), codes, rtol=0, atol=0)
    back = form.lookup(codes).permute(0, 3, 1, 2)
    torch.testing.assert_close(back, quantized, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
@torch.no_grad()
def test_margins_tell_right_codes_from_wrong_ones(make):
    module, z = make().eval(), vectors(4)
    form = copy.deepcopy(adapt(module)).double()
    codes = answer(module, z).codes.reshape(-1, form.num_codebooks)
    flat = z.double().permute(0, 2, 3, 1).flatten(0, 2)
    assert form.margins(flat, codes).max() < 1e-6
    wrong = codes.clone()
    wrong[:, 0] = (wrong[:, 0] + 1) % form.codebook_size
    margins = form.margins(flat, wrong)[2:, 0]
    assert (margins > 1e-5).float().mean() > 0.95


@torch.no_grad()
def test_two_codebooks_share_the_channels_in_order():
    books = torch.tensor([[[0.0], [1.0], [2.0]], [[10.0], [20.0], [30.0]]])
    form = adapt(books)
    z = torch.tensor([[1.9, 11.0], [-5.0, 26.0]])
    assert form.encode(z).tolist() == [[2, 0], [0, 2]]
    assert form.lookup(torch.tensor([[2, 0], [0, 2]])).tolist() == [[2, 10], [0, 30]]
    facts = (form.channels, form.codebook_size, form.num_codebooks, form.code_dim)
    assert facts == (2, 3, 2, 1)


@torch.no_grad()
def test_a_residual_margin_follows_the_codes_own_path():
    form = Nearest(torch.tensor([[[0.0], [8.0]], [[-3.0], [3.0]]]), residual=True).double()
    z = torch.tensor([[4.5]], dtype=torch.float64)
    assert form.encode(z).tolist() == [[1, 0]]
    # 0 is the wrong first code, but after it 3 is the right entry.
    first, second = form.margins(z, torch.tensor([[0, 1]]))[0].tolist()
    assert first == pytest.approx((4.5**2 - 3.5**2) / 4.5**2)
    assert second == 0


@torch.no_grad()
def test_codes_of_a_finite_scalar_quantizer_are_exact_for_every_code():
    module = FSQ([8, 7, 6, 5]).eval()
    form = adapt(module)
    every = torch.arange(8 * 7 * 6 * 5)[:, None]
    torch.testing.assert_close(form.lookup(every), module.implicit_codebook, rtol=0, atol=0)


REFUSED = {
    "accept_3d_fmap=True": lambda: VectorQuantize(dim=8, codebook_size=16, accept_3d_fmap=True),
    "affine_param=True": lambda: VectorQuantize(dim=8, codebook_size=16, affine_param=True),
    "vq_bridge='Linear'": lambda: VectorQuantize(
        dim=8, codebook_size=16, vq_bridge=nn.Linear(8, 8)
    ),
    "kmeans_init": lambda: VectorQuantize(dim=8, codebook_size=16, kmeans_init=True),
    "accept_image_fmap=True": lambda: ResidualVQ(
        dim=8, codebook_size=16, num_quantizers=2, accept_image_fmap=True
    ),
    "implicit_neural_codebook=True": lambda: ResidualVQ(
        dim=8, codebook_size=16, num_quantizers=2, implicit_neural_codebook=True
    ),
    "diveq=True": lambda: ResidualVQ(dim=8, codebook_size=16, num_quantizers=2, diveq=True),
    "eval_beam_size=2": lambda: ResidualVQ(dim=8, codebook_size=16, num_quantizers=2, beam_size=2),
    r"codebook_size=\(16, 32\)": lambda: ResidualVQ(dim=8, codebook_size=(16, 32)),
    "channel_last=False": lambda: ResidualVQ(
        dim=8, codebook_size=16, num_quantizers=2, channel_last=False
    ),
    "return_indices=False": lambda: FSQ([8, 5], return_indices=False),
    "no quantizer that can be exported: SimVQ": lambda: SimVQ(dim=8, codebook_size=16),
    "no quantizer that can be exported: Linear": lambda: nn.Linear(8, 8),
    r"a codebook of torch.float32 \(8,\)": lambda: torch.zeros(8),
    r"a codebook of torch.int64 \(8, 8\)": lambda: torch.zeros(8, 8, dtype=torch.int64),
    "two entries at least": lambda: torch.zeros(1, 8),
    "not finite": lambda: torch.full((4, 8), torch.nan),
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_a_graph_cannot_follow_is_refused_by_name(option):
    with pytest.raises(VqtrtError, match=option) as caught:
        adapt(REFUSED[option]())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["vq", "residual", "fsq", "lfq"])
def test_the_bundle_gives_the_packages_codes_on_a_thousand_images(name, tmp_path):
    encoder = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, DIM, 4, 2, 1), nn.BatchNorm2d(DIM)
    )
    decoder = nn.Sequential(nn.Conv2d(DIM, 48, 1), nn.PixelShuffle(4))
    with torch.no_grad():
        # To unit variance, so that all of a quantizer's range is used.
        encoder[-1].momentum = 1.0
        encoder(torch.from_numpy(random_images(64, 8, 8, seed=1)).permute(0, 3, 1, 2) / 255 - 0.5)
    parts = {"encoder": encoder, "decoder": decoder, "quantizer": MODULES[name]()}
    bundle = export_tokenizer(tmp_path / "bundle", height=8, width=8, verify=False, **parts)
    figures = verify_tokenizer(bundle, random_images(1000, 8, 8), **parts)
    assert figures["passed"]
    assert figures["images"] == 1000
    assert figures["code_agreement"] == 1
