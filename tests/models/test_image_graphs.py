import numpy as np
import pytest
import torch

from vqtrt.config.images import ModelConfig
from vqtrt.models.image import VQVAE
from vqtrt.models.image_graphs import (
    DecoderGraph,
    EncoderGraph,
    normalize,
    subpixel,
    subpixel_convolution,
    to_bytes,
)
from vqtrt.models.info import model_info


@pytest.fixture(params=[1, 3])
def model(request):
    torch.manual_seed(0)
    quantizer = {"codebook_size": 16, "dim": 4, "num_codebooks": request.param}
    config = {"hidden": 8, "residual_blocks": 1, "residual_hidden": 4, "quantizer": quantizer}
    model = VQVAE(ModelConfig.model_validate(config)).eval()
    model.quantizer.start_from(model.encoder(normalize(pictures(8, 16, 16))))
    return model


def pictures(*shape):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (*shape, 3), generator=generator, dtype=torch.uint8)


def test_all_256_levels_survive_the_round_trip():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    unit = normalize(images)
    assert unit.dtype == torch.float32
    assert unit.shape == (1, 3, 16, 16)
    assert (unit.min().item(), unit.max().item()) == (-0.5, 0.5)
    assert torch.equal(to_bytes(unit), images)


def test_to_unit_keeps_axes_apart():
    images = torch.zeros(1, 2, 3, 3, dtype=torch.uint8)
    images[0, 1, 2, 0] = 255
    unit = normalize(images)
    assert unit[0, 0, 1, 2] == 0.5
    assert (unit == -0.5).sum() == unit.numel() - 1


def test_to_bytes_rounds_and_clamps():
    levels = torch.tensor([-300.0, -0.6, 0.4, 0.6, 254.6, 255.4, 900.0])
    images = (levels / 255 - 0.5).reshape(1, 1, 1, 7).expand(1, 3, 1, 7)
    assert to_bytes(images)[0, 0, :, 0].tolist() == [0, 0, 0, 1, 255, 255, 255]
    assert to_bytes(images.bfloat16()).dtype == torch.uint8


def test_encoder_graph_gives_the_quantizers_codes(model):
    images = pictures(5, 8, 12)
    codes = EncoderGraph(model)(images)
    expected = model.quantizer.encode(model.encoder(normalize(images)))
    books = model.config.quantizer.num_codebooks
    assert codes.dtype == torch.int32
    assert codes.shape == ((5, 2, 3) if books == 1 else (5, 2, 3, books))
    assert torch.equal(codes.reshape(expected.shape), expected.int())
    assert codes.unique().numel() > 2


def test_decoder_graph_gives_the_decoders_bytes(model):
    books = model.config.quantizer.num_codebooks
    codes = torch.randint(16, (5, 2, 3, books), dtype=torch.int32)
    expected = to_bytes(model.decoder(model.quantizer.lookup(codes.long())))
    images = DecoderGraph(model)(codes[..., 0] if books == 1 else codes)
    assert images.dtype == torch.uint8
    assert images.shape == (5, 8, 12, 3)
    assert torch.equal(images, expected)


def test_the_encoder_graph_keeps_a_codebook_of_its_own(model):
    graph, images = EncoderGraph(model), pictures(2, 8, 8)
    before = graph(images)
    with torch.no_grad():
        model.quantizer.codebook.zero_()
    assert torch.equal(graph(images), before)


def test_vectors_are_what_is_quantized(model):
    images = pictures(2, 8, 8)
    vectors = EncoderGraph(model).vectors(images)
    expected = model.encoder(normalize(images)).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(vectors.detach(), expected.detach())


def test_facts(model):
    facts = model_info(model.config)
    assert (facts.codebook_size, facts.code_dim, facts.stride) == (16, 4, 4)
    assert facts.num_codebooks == model.config.quantizer.num_codebooks


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5)])
def test_subpixel_is_the_transposed_convolution(height, width):
    torch.manual_seed(0)
    layer = torch.nn.ConvTranspose2d(5, 3, 4, stride=2, padding=1).double()
    x = torch.randn(2, 5, height, width, dtype=torch.float64)
    made = subpixel_convolution(layer)(x)
    assert made.shape == (2, 3, 2 * height, 2 * width)
    torch.testing.assert_close(made, layer(x), rtol=0, atol=1e-14)


def test_subpixel_refuses_what_it_cannot_say():
    with pytest.raises(ValueError, match="not of kernel 4, stride 2 and padding 1"):
        subpixel_convolution(torch.nn.ConvTranspose2d(5, 3, 3, stride=2, padding=1))


def test_subpixel_is_the_whole_decoder(model):
    decoder = model.decoder.double()
    z = torch.randn(2, decoder[0].in_channels, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(subpixel(decoder)(z), decoder(z), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_graphs_keep_the_model_and_the_distances_in_fp32(model, dtype):
    images = pictures(5, 8, 12)
    encoder, decoder = EncoderGraph(model, dtype), DecoderGraph(model, dtype)
    assert {p.dtype for p in encoder.encoder[:-1].parameters()} == {dtype}
    assert {p.dtype for p in encoder.encoder[-1].parameters()} == {torch.float32}
    assert {p.dtype for p in decoder.decoder.parameters()} == {dtype}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.quantizer.codebook.dtype == torch.float32
    assert encoder.vectors(images).dtype == torch.float32
    assert {each.dtype for each in encoder.quantizer.buffers()} == {torch.float32}
    codes = EncoderGraph(model)(images)
    assert (encoder(images) == codes).double().mean() > 0.9
    index = codes.long().reshape(*codes.shape[:3], -1)
    vectors = model.quantizer.lookup(index).permute(0, 2, 3, 1).to(dtype)
    assert torch.equal(decoder.quantizer.lookup(index), vectors)
    wanted = DecoderGraph(model)(codes).int()
    limit = 1 if dtype == torch.float16 else 8
    assert 0 <= (decoder(codes).int() - wanted).abs().max() <= limit
