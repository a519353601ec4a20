import itertools

import pytest
import torch
from torch import nn

from vqtrt.config.images import ModelConfig, load_config
from vqtrt.models.image_parts import Decoder, Encoder, ResidualBlock, latent_channels


def small(**settings):
    quantizer = settings.pop("quantizer", {"codebook_size": 8, "dim": 5})
    base = {"hidden": 6, "residual_hidden": 4, "quantizer": quantizer}
    return ModelConfig.model_validate(base | settings)


def kernels(module):
    return [
        (type(m).__name__, m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0])
        for m in module.modules()
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))
    ]


@pytest.mark.parametrize("strided_layers", [1, 2, 3])
@pytest.mark.parametrize("bridge", [True, False])
@pytest.mark.parametrize("stem_hidden", [None, 3])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 24), (40, 8)])
def test_shapes(strided_layers, bridge, stem_hidden, height, width):
    config = small(strided_layers=strided_layers, bridge=bridge, stem_hidden=stem_hidden)
    stride = 2**strided_layers
    assert config.stride == stride
    z = Encoder(config)(torch.zeros(2, 3, height, width))
    assert z.shape == (2, 5, height // stride, width // stride)
    assert Decoder(config)(z).shape == (2, 3, height, width)


def test_latents_of_several_codebooks():
    config = small(quantizer={"codebook_size": 8, "dim": 5, "num_codebooks": 3})
    assert latent_channels(config) == 15
    z = Encoder(config)(torch.zeros(1, 3, 8, 8))
    assert z.shape == (1, 15, 2, 2)
    assert Decoder(config)(z).shape == (1, 3, 8, 8)


def test_residual_block_is_the_papers():
    torch.manual_seed(0)
    block = ResidualBlock(6, 4)
    x = torch.randn(2, 6, 5, 7)
    inner = nn.functional.conv2d(x.clamp_min(0), block.conv3.weight, padding=1)
    expected = x + nn.functional.conv2d(inner.clamp_min(0), block.conv1.weight)
    torch.testing.assert_close(block(x), expected)
    assert block.conv3.weight.shape == (4, 6, 3, 3)
    assert block.conv1.weight.shape == (6, 4, 1, 1)


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_paper_recipes_are_two_strides_and_two_blocks_of_256(name):
    config = load_config(name).model
    channels = latent_channels(config)
    assert channels == {"cifar10": 640, "imagenet": 64}[name]
    block = [("Conv2d", 256, 256, 3, 1), ("Conv2d", 256, 256, 1, 1)]
    with torch.device("meta"):
        encoder, decoder = Encoder(config), Decoder(config)
    assert kernels(encoder) == [
        ("Conv2d", 3, 256, 4, 2),
        ("Conv2d", 256, 256, 4, 2),
        *block,
        *block,
        ("Conv2d", 256, channels, 1, 1),
    ]
    assert kernels(decoder) == [
        ("Conv2d", channels, 256, 3, 1),
        *block,
        *block,
        ("ConvTranspose2d", 256, 256, 4, 2),
        ("ConvTranspose2d", 256, 3, 4, 2),
    ]


@pytest.mark.parametrize(
    ("name", "size", "codes"), [("cifar10", 32, (8, 8)), ("imagenet", 128, (32, 32))]
)
def test_paper_recipes_grids(name, size, codes):
    config = load_config(name)
    assert (config.data.preprocessing.height, config.data.preprocessing.width) == (size, size)
    with torch.device("meta"):
        z = Encoder(config.model)(torch.zeros(1, 3, size, size))
        assert z.shape[2:] == codes
        assert Decoder(config.model)(z).shape == (1, 3, size, size)


def test_a_relu_lies_between_any_two_convolutions_of_the_trunk():
    """No two affine layers in a row, except across a residual sum."""
    for bridge in (True, False):
        layers = list(Encoder(small(bridge=bridge)))
        for one, other in itertools.pairwise(layers):
            assert not (isinstance(one, nn.Conv2d) and isinstance(other, nn.Conv2d))
    layers = list(Decoder(small()))
    assert isinstance(layers[-1], nn.ConvTranspose2d)
    for one, other in itertools.pairwise(layers):
        assert not (isinstance(one, nn.ConvTranspose2d) and isinstance(other, nn.ConvTranspose2d))
