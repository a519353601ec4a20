import pytest
import torch

from vqtrt.config.images import QuantizerConfig
from vqtrt.models.quantize import GradientQuantizer


@pytest.fixture
def quantizer():
    torch.manual_seed(0)
    config = QuantizerConfig(
        kind="gradient", codebook_size=6, dim=2, num_codebooks=2, beta=0.5, restart_below=0
    )
    quantizer = GradientQuantizer(config)
    with torch.no_grad():
        quantizer.codebook.copy_(torch.randn(2, 6, 2))
    return quantizer


def chosen_pairs(quantizer, z):
    """Each latent with its code: (book, code, vector), from the definition in float64."""
    for book in range(2):
        entries = quantizer.codebook[book].detach().double()
        for vector in z[:, 2 * book : 2 * book + 2].detach().permute(0, 2, 3, 1).reshape(-1, 2):
            yield book, int((entries - vector).square().sum(-1).argmin()), vector


def test_loss_is_codebook_plus_beta_commitment(quantizer):
    z = torch.randn(2, 4, 3, 3)
    squares = [
        (quantizer.codebook[book, code].double() - vector.double()).square().sum().item()
        for book, code, vector in chosen_pairs(quantizer, z)
    ]
    expected = (1 + 0.5) * sum(squares) / z.numel()
    assert quantizer(z).loss.item() == pytest.approx(expected, rel=1e-5)


def test_codebook_gradient_is_that_of_the_codebook_loss(quantizer):
    z = torch.randn(2, 4, 3, 3, requires_grad=True)
    expected = torch.zeros(2, 6, 2)
    for book, code, vector in chosen_pairs(quantizer, z):
        expected[book, code] += 2 * (quantizer.codebook[book, code].detach() - vector) / z.numel()
    quantizer(z).loss.backward()
    torch.testing.assert_close(quantizer.codebook.grad, expected)
    unused = expected.abs().sum(-1) == 0
    assert unused.any()
    assert (quantizer.codebook.grad[unused] == 0).all()


def test_no_gradient_reaches_the_codebook_through_the_vectors(quantizer):
    z = torch.randn(2, 4, 3, 3, requires_grad=True)
    out = quantizer(z)
    (gradient,) = torch.autograd.grad(
        out.vectors.sum(), quantizer.codebook, allow_unused=True, retain_graph=True
    )
    assert gradient is None or (gradient == 0).all()


def test_descent_brings_the_entries_to_their_vectors(quantizer):
    z = torch.randn(4, 4, 4, 4)
    quantizer.start_from(z)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=10.0)
    first = quantizer(z).loss.item()
    for _ in range(20):
        optimizer.zero_grad()
        quantizer(z).loss.backward()
        optimizer.step()
    assert quantizer(z).loss.item() < 0.8 * first


def test_usage_is_a_moving_average_of_the_counts(quantizer):
    z = torch.randn(2, 4, 3, 3)
    counts = torch.zeros(2, 6)
    for book, code, _ in chosen_pairs(quantizer, z):
        counts[book, code] += 1
    quantizer(z)
    # The first step's decay is 1 / 10; a warm one's is the configured 0.99.
    first = 0.1 * torch.ones(2, 6) + 0.9 * counts
    torch.testing.assert_close(quantizer.usage, first)
    quantizer.updates.fill_(10_000)
    quantizer(z)
    torch.testing.assert_close(quantizer.usage, 0.99 * first + 0.01 * counts)


def test_a_restart_does_not_disturb_the_step(quantizer):
    """The step's gradient is that of the entries that were chosen, though some are replaced."""
    z = torch.randn(2, 4, 3, 3)
    quantizer.usage[:, ::2] = 0.1
    plain = GradientQuantizer(quantizer.config)
    plain.load_state_dict(quantizer.state_dict())
    plain(z).loss.backward()
    restarting = GradientQuantizer(quantizer.config.model_copy(update={"restart_below": 0.8}))
    restarting.load_state_dict(quantizer.state_dict())
    restarting(z).loss.backward()
    assert not torch.equal(restarting.codebook, plain.codebook)
    assert torch.equal(restarting.codebook.grad, plain.codebook.grad)
