import pytest
import torch

from vqtrt.config.images import ModelConfig
from vqtrt.models.image import VQVAE


def build(**quantizer):
    torch.manual_seed(0)
    settings = {"codebook_size": 8, "dim": 4, "restart_below": 0} | quantizer
    config = {"hidden": 8, "residual_blocks": 1, "residual_hidden": 4, "quantizer": settings}
    return VQVAE(ModelConfig.model_validate(config))


@pytest.mark.parametrize("kind", ["ema", "gradient"])
@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_total_is_reconstruction_over_variance_plus_the_quantizers_loss(kind, num_codebooks):
    model = build(kind=kind, num_codebooks=num_codebooks).eval()
    images = torch.rand(3, 3, 8, 12) - 0.5
    losses = model(images, 0.04)
    quantized = model.quantizer(model.encoder(images))
    error = (model.decoder(quantized.vectors) - images).square().mean().item() / 0.04
    assert losses.reconstruction.item() == pytest.approx(error, rel=1e-5)
    assert losses.total.item() == pytest.approx(error + quantized.loss.item(), rel=1e-5)
    assert losses.perplexity.item() == pytest.approx(quantized.perplexity.item())
    assert not losses.reconstruction.requires_grad


@pytest.mark.parametrize("kind", ["ema", "gradient"])
def test_gradients_reach_every_parameter(kind):
    model = build(kind=kind, num_codebooks=2)
    images = torch.rand(3, 3, 16, 16) - 0.5
    model.quantizer.start_from(model.encoder(images))
    model(images, 0.04).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_encoder_gets_the_reconstructions_gradient_through_the_quantizer():
    model = build(beta=0)
    model(torch.rand(2, 3, 8, 8) - 0.5, 1.0).total.backward()
    assert model.encoder[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["ema", "gradient"])
def test_it_learns(kind):
    model = build(kind=kind)
    images = (torch.arange(4) / 4 - 0.4)[:, None, None, None].expand(4, 3, 8, 8)
    model.quantizer.start_from(model.encoder(images))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    variance = float(images.var(correction=0))
    first = model(images, variance).reconstruction.item()
    for _ in range(120):
        optimizer.zero_grad()
        model(images, variance).total.backward()
        optimizer.step()
    assert model.eval()(images, variance).reconstruction.item() < 0.3 * first


def test_code_dropout_hides_whole_positions_in_training_alone():
    model = build()
    model.config = model.config.model_copy(update={"code_dropout": 0.25})
    images, seen = torch.rand(16, 3, 32, 32) - 0.5, []
    model.decoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    vectors = model.eval().quantizer(model.encoder(images)).vectors
    model(images, 0.04)
    assert torch.equal(seen[0], vectors)
    model.train()(images, 0.04)
    hidden = (seen[1] == 0).all(1)
    assert torch.equal(hidden, (seen[1] == 0).any(1))
    assert hidden.double().mean().item() == pytest.approx(0.25, abs=0.05)
    kept = ~hidden[:, None].expand_as(vectors)
    torch.testing.assert_close(seen[1][kept], vectors[kept])
