import numpy as np
import pytest
import torch
from torch import nn

from vqtrt.config.audio import WaveNetConfig
from vqtrt.priors.wavenet import WaveNetPrior


def make(**settings) -> WaveNetPrior:
    """A small prior of random weights, biases too; float64."""
    config = {"layers": 6, "cycles": 2, "channels": 4, "head": 8, "codebook_size": 11}
    torch.manual_seed(0)
    prior = WaveNetPrior(WaveNetConfig(**config | settings)).double().eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return prior


def draw(*shape: int, size: int = 11, seed: int = 1) -> torch.Tensor:
    return torch.randint(size, shape, generator=torch.Generator().manual_seed(seed))


class Given(nn.Module):
    """In place of the embedding: vectors that a gradient is asked for."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.vectors = vectors

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.vectors


@pytest.mark.parametrize("settings", [{}, {"cycles": 1}, {"layers": 4, "cycles": 4}])
@pytest.mark.parametrize("classes", [0, 3])
def test_a_code_sees_exactly_those_before_it_in_reach(settings, classes):
    prior = make(num_classes=classes, **settings)
    reach = prior.config.receptive_field
    seen = np.zeros((40, 40), bool)
    speakers = torch.tensor([1]) if classes else None
    for seed in range(2):
        codes = draw(1, 40, seed=seed)
        table = prior.wavenet.embedding
        vectors = table(prior.wavenet.shift_right(codes)).detach().requires_grad_()
        prior.wavenet.embedding = Given(vectors)
        logits = prior(codes, speakers)[0].sum(-1)
        prior.wavenet.embedding = table
        for t in range(40):
            (grad,) = torch.autograd.grad(logits[t], vectors, retain_graph=True)
            seen[t] |= (grad[0] != 0).any(-1).numpy()
    # Entry j is the code before step j.
    ago = np.arange(40)[:, None] - np.arange(40)
    np.testing.assert_array_equal(seen, (ago >= 0) & (ago < reach))


def test_the_first_code_follows_nothing():
    prior = make()
    logits = prior(draw(2, 5))
    assert logits.shape == (2, 5, 11)
    torch.testing.assert_close(logits[0, 0], logits[1, 0])
    with torch.no_grad():
        prior.wavenet.embedding.weight[11] += 1
    assert (prior(draw(2, 5))[:, 0] != logits[:, 0]).any()


def test_a_part_with_the_codes_before_it_gives_what_the_whole_gives():
    prior = make(num_classes=2)
    reach = prior.config.receptive_field
    codes, speakers = draw(3, 60), torch.tensor([0, 1, 0])
    whole = prior(codes, speakers)
    part = prior(codes[:, 30 - reach : 50], speakers)[:, reach:]
    torch.testing.assert_close(part, whole[:, 30:50], rtol=0, atol=1e-12)
    fewer = prior(codes[:, 31 - reach : 50], speakers)[:, reach - 1]
    assert (fewer - whole[:, 30]).abs().max() > 1e-6


def test_speakers_differ_and_have_to_be_given():
    prior = make(num_classes=3)
    codes = draw(1, 8).expand(3, 8)
    logits = prior(codes, torch.arange(3))
    assert (logits[0] != logits[1]).all()
    with pytest.raises(ValueError, match="3 speakers"):
        prior(codes)
    with pytest.raises(ValueError, match="no speakers"):
        make()(codes, torch.arange(3))


def test_dropout_is_for_training_alone():
    prior = make(dropout=0.5)
    codes = draw(1, 20)
    torch.testing.assert_close(prior(codes), prior(codes), rtol=0, atol=0)
    prior.train()
    assert (prior(codes) != prior(codes)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_float32_at_least(dtype):
    assert make().to(dtype)(draw(1, 5)).dtype == torch.float32


def test_every_parameter_gets_a_gradient():
    # Processes that train together would wait for one that gets none.
    prior = make(num_classes=2)
    prior(draw(2, 9), torch.tensor([0, 1])).sum().backward()
    assert [name for name, p in prior.named_parameters() if p.grad is None] == []


def test_starts_from_the_codebook():
    prior = make()
    nothing = prior.wavenet.embedding.weight[11].clone()
    spreads = prior.wavenet.embedding.weight[:11].std(), prior.wavenet.out.weight.std()
    book = torch.randn(1, 11, 32, dtype=torch.float64) + 5
    book[0, 7] = book[0, 3] + 1e-9
    prior.start_from(book)
    for weight, spread in zip(
        (prior.wavenet.embedding.weight[:11], prior.wavenet.out.weight), spreads, strict=True
    ):
        torch.testing.assert_close(weight[7], weight[3], rtol=0, atol=1e-7)
        assert (weight[2] - weight[3]).abs().max() > 0.05
        assert 0.5 < weight.std() / spread < 2
    torch.testing.assert_close(prior.wavenet.embedding.weight[11], nothing)


def test_a_codebook_of_equal_entries_is_no_start_of_nan():
    prior = make()
    prior.start_from(torch.ones(1, 11, 4, dtype=torch.float64))
    assert all(bool(p.isfinite().all()) for p in prior.parameters())
