import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from vqtrt.config.images import PixelCNNConfig
from vqtrt.priors.pixelcnn import PixelCNN


def make(height, width, **settings):
    """A small prior with its kernel chosen for the grid; float64, all biases random too."""
    config = {"layers": 3, "channels": 4, "head": 16, "first_kernel": 3, "codebook_size": 5}
    torch.manual_seed(0)
    prior = PixelCNN(PixelCNNConfig(**config | settings).fitted(height, width)).double().eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
        for table in prior.embeddings:
            table.weight[-1] = 0
    return prior


class Reach:
    """Which codes the logits of a place depend on, by the gradient on the embedded codes.

    In float64 and over several draws of codes, so that a derivative that happens to vanish hides
    nothing. One forward pass serves all places.
    """

    def __init__(self, prior, shape, *, draws=2, classes=0):
        generator = torch.Generator().manual_seed(1)
        labels = torch.ones(draws, dtype=torch.long) if classes else None
        codes = torch.randint(prior.config.codebook_size, (draws, *shape), generator=generator)
        self.embedded = prior.embed(codes).detach().requires_grad_()
        prior.embed = lambda codes: self.embedded
        self.logits = prior(codes, labels).sum((0, -1, -2))
        del prior.embed

    def __call__(self, position):
        (grad,) = torch.autograd.grad(self.logits[*position], self.embedded, retain_graph=True)
        return (grad != 0).any(-1).any(0).numpy()


def earlier(shape, position):
    place = np.arange(shape[0] * shape[1]).reshape(shape[:2])
    return place < position[0] * shape[1] + position[1]


@pytest.mark.parametrize(
    "settings", [{}, {"kernel": 5, "layers": 4}, {"first_kernel": 7}, {"layers": 6}]
)
@pytest.mark.parametrize("classes", [0, 3])
def test_sees_all_that_is_earlier_and_nothing_else(settings, classes):
    prior = make(8, 8, num_classes=classes, **settings)
    reach = Reach(prior, (8, 8, 1), draws=2, classes=classes)
    for position in np.ndindex(8, 8):
        seen = reach(position)
        np.testing.assert_array_equal(seen, earlier((8, 8, 1), position), str(position))


def test_grids_that_are_no_squares():
    for shape in ((3, 9, 1), (9, 3, 1), (1, 6, 1), (6, 1, 1)):
        prior = make(*shape[:2])
        reach = Reach(prior, shape, draws=2)
        for position in np.ndindex(*shape[:2]):
            seen = reach(position)
            np.testing.assert_array_equal(seen, earlier(shape, position), str(position))


@pytest.mark.parametrize("layers", [4, 12])
def test_sees_all_that_is_earlier_at_32x32(layers):
    prior = make(32, 32, channels=2, layers=layers, first_kernel=7)
    random = np.random.default_rng(0).integers(0, 32, (6, 2)).tolist()
    reach = Reach(prior, (32, 32, 1), draws=3)
    for position in [(0, 0), (0, 31), (31, 0), (31, 31), (1, 0), (1, 31), *random]:
        seen = reach(position)
        np.testing.assert_array_equal(seen, earlier((32, 32, 1), position), str(position))


@pytest.mark.slow
def test_sees_all_that_is_earlier_at_every_place_of_32x32():
    prior = make(32, 32, channels=2, layers=12, first_kernel=7)
    reach = Reach(prior, (32, 32, 1), draws=3)
    for position in np.ndindex(32, 32):
        seen = reach(position)
        np.testing.assert_array_equal(seen, earlier((32, 32, 1), position), str(position))


def test_the_reach_is_what_it_says():
    # A kernel that is too small: what lies beyond its reach is a blind spot, and only that.
    prior = make(9, 9, kernel=3, first_kernel=5, layers=3)
    far = prior.config.receptive_field(3)
    assert far == 4
    reach = Reach(prior, (9, 9, 1))
    rows, columns = np.mgrid[:9, :9]
    for position in [(8, 8), (8, 0), (4, 4), (6, 3)]:
        near = (position[0] - rows <= far) & (abs(columns - position[1]) <= far)
        expected = earlier((9, 9, 1), position) & near
        seen = reach(position)
        np.testing.assert_array_equal(seen, expected)


def test_codes_of_one_place_see_those_before_them():
    prior, shape = make(4, 4, num_codebooks=3), (4, 4, 3)
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(5, (1, *shape), generator=generator)
    with torch.no_grad():
        before = prior(codes)
        for row, column, book in np.ndindex(*shape):
            changed = codes.clone()
            changed[0, row, column, book] = (changed[0, row, column, book] + 1) % 5
            moved = (prior(changed) - before).abs().amax(-1)[0].numpy() > 0
            later = np.arange(48).reshape(shape) > (row * 4 + column) * 3 + book
            np.testing.assert_array_equal(moved, later, str((row, column, book)))


def test_labels_change_the_logits_everywhere():
    # Wide enough that no ReLU is silent everywhere.
    prior = make(6, 6, num_classes=4, head=64)
    codes = torch.zeros(4, 6, 6, 1, dtype=torch.int64)
    with torch.no_grad():
        logits = prior(codes, torch.arange(4))
    for one in range(4):
        for other in range(one):
            assert ((logits[one] - logits[other]).abs().amax(-1) > 1e-6).all()


def test_a_label_without_a_table_is_refused():
    prior = make(3, 3)
    with pytest.raises(ValueError, match="not conditioned"):
        prior(torch.zeros(1, 3, 3, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize("name", ["kernel", "first_kernel"])
def test_even_kernels_are_refused(name):
    with pytest.raises(ValidationError, match="odd"):
        PixelCNNConfig(**{name: 4})


def test_a_kernel_has_to_be_chosen():
    with pytest.raises(ValueError, match="fitted"):
        PixelCNN(PixelCNNConfig())


def test_the_chosen_kernel_is_the_smallest_that_reaches():
    for side in (4, 8, 16, 32, 64):
        config = PixelCNNConfig(layers=8)
        kernel = config.fitted(3, side).kernel
        assert config.receptive_field(kernel) >= side - 1
        assert kernel == 3 or config.receptive_field(kernel - 2) < side - 1
    assert PixelCNNConfig(kernel=3).fitted(99, 99).kernel == 3


def test_nothing_is_zero_and_stays_so():
    prior = PixelCNN(
        PixelCNNConfig(layers=2, channels=3, codebook_size=5, num_codebooks=2, kernel=3)
    )
    nothing = torch.full((1, 2, 2, 2), 5)
    assert (prior.embed(nothing) == 0).all()
    assert (prior.embed(torch.zeros_like(nothing)) != 0).any()
    optimizer = torch.optim.Adam(prior.parameters(), 0.1)
    logits = prior(torch.randint(5, (2, 4, 4, 2), generator=torch.Generator().manual_seed(0)))
    logits.logsumexp(-1).sum().backward()
    optimizer.step()
    assert (prior.embed(nothing) == 0).all()


def test_the_first_place_is_drawn_from_labels_alone():
    prior = make(5, 5, num_classes=2)
    labels = torch.tensor([0, 1, 0])
    codes = torch.randint(5, (3, 5, 5, 1), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = prior(codes, labels)[:, 0, 0, 0]
    assert torch.equal(first[0], first[2])
    assert not torch.allclose(first[0], first[1])
    assert first.shape == (3, 5)


def test_a_new_prior_knows_nothing():
    torch.manual_seed(0)
    prior = PixelCNN(PixelCNNConfig(layers=4, channels=16, codebook_size=64).fitted(8, 8)).eval()
    codes = torch.randint(64, (4, 8, 8, 1), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(prior(codes).flatten(0, -2), codes.flatten())
    assert abs(float(loss) - math.log(64)) < 0.5


def test_it_starts_from_the_codebooks():
    torch.manual_seed(0)
    prior = PixelCNN(PixelCNNConfig(codebook_size=64, num_codebooks=2, layers=2).fitted(4, 4))
    sizes = [float(part[0].weight[:64].detach().std()) for part in (prior.embeddings, prior.heads)]
    codebooks = torch.randn(2, 64, 8)
    codebooks[:, 1] = codebooks[:, 0] + 1e-3
    prior.start_from(codebooks * 7 + 3)
    for part, size in zip((prior.embeddings, prior.heads), sizes, strict=True):
        for index, codebook in enumerate(codebooks):
            weight = part[index].weight[:64].detach()
            assert float(weight.std()) == pytest.approx(size, rel=0.2)
            # What is near in one is near in the other.
            near, far = torch.cdist(weight[:1], weight)[0, 1:3]
            assert near < far / 100
            distances = torch.stack([torch.cdist(x, x).flatten() for x in (codebook, weight)])
            assert float(torch.corrcoef(distances)[0, 1]) > 0.8
    assert not prior.embeddings[0].weight[64].any()
    # A codebook of equal entries says nothing; it breaks nothing, either.
    prior.start_from(torch.ones(2, 64, 8))
    assert torch.isfinite(prior(torch.zeros(1, 4, 4, 2, dtype=torch.long))).all()
