import numpy as np
import pytest
import torch

from vqtrt.config.images import PixelCNNConfig
from vqtrt.models.sample import draw
from vqtrt.priors.pixelcnn import PixelCNN
from vqtrt.priors.pixelcnn_graphs import GRAPHS, pixelcnn_graph

HALF = 2.0**-24


def make(height, width, *, double=False, **settings):
    config = {"layers": 4, "channels": 6, "head": 8, "first_kernel": 5, "codebook_size": 7}
    torch.manual_seed(0)
    prior = PixelCNN(PixelCNNConfig(**config | settings).fitted(height, width)).eval()
    with torch.no_grad():
        for name, parameter in prior.named_parameters():
            if "label" in name:
                parameter.normal_()  # they start at zero, which would hide them
    return prior.double() if double else prior


def cached_logits(prior, codes, labels=None, dtype=None):
    """Logits (N, H, W, C, K) of codes by the row and step graphs.

    For C > 1 the step draws the codes before at a place itself: noise is chosen so that it draws
    the given ones.
    """
    config, kind = prior.config, next(prior.parameters()).dtype
    n, height, width, books = codes.shape
    row, step = (pixelcnn_graph(prior, name, dtype).module for name in ("row", "step"))
    layers, p = prior.gated_layers(), config.channels
    rows = [
        torch.zeros(width, n, 2 * p, dtype=kind) for layer in layers for _ in range(layer.rows - 1)
    ]
    nothing = torch.full((n, width, books), config.codebook_size)
    out = torch.empty(n, height, width, books, config.codebook_size, dtype=kind)
    one = torch.ones(1, dtype=kind)
    with torch.inference_mode():
        for r in range(height):
            above = codes[:, r - 1] if r else nothing
            bias, rows = row(above, rows, labels)
            left = [layer.columns - 1 for layer in layers if layer.columns > 1]
            caches = [torch.zeros(n, columns * p, dtype=kind) for columns in left]
            for c in range(width):
                code = codes[:, r, c - 1] if c else nothing[:, 0]
                column = torch.tensor([c], dtype=torch.int32)
                noise = torch.full((n, books), 0.5, dtype=kind)
                for book in range(books):
                    drawn, logits, kept = step(
                        code, column, bias, noise, {"temperature": one}, caches
                    )
                    if book + 1 == books:
                        break
                    share = torch.softmax(logits[:, book], -1)
                    wanted = codes[:, r, c, book, None]
                    upper = share.cumsum(-1).gather(1, wanted)
                    noise[:, book] = (upper - share.gather(1, wanted) / 2)[:, 0]
                if books > 1:
                    assert torch.equal(drawn[:, :-1], codes[:, r, c, :-1].to(drawn.dtype))
                out[:, r, c] = logits
                caches = kept
    return out


def both(shape, labels=None, **settings):
    prior = make(*shape[1:3], num_codebooks=shape[3], num_classes=3 if labels else 0, **settings)
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(prior.config.codebook_size, shape, generator=generator)
    given = torch.arange(shape[0]) % 3 if labels else None
    with torch.inference_mode():
        full = prior(codes, given) if not settings.get("double") else _full64(prior, codes, given)
    return cached_logits(prior, codes, given), full


def _full64(prior, codes, labels):
    """`forward` without its cast to float32."""
    features = prior.features(codes, labels)
    return torch.stack(
        [prior.head(i, features, codes) for i in range(prior.config.num_codebooks)], 3
    )


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("books", [1, 3])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("first_kernel", [3, 5, 7])
def test_equals_the_full_pass_in_float64(kernel, first_kernel, books, labels):
    shape = (2, 8, 8, books)
    kernels = {"kernel": kernel, "first_kernel": first_kernel}
    cached, full = both(shape, labels, double=True, **kernels)
    assert full.std() > 1e-3
    torch.testing.assert_close(cached, full, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("dtype", "share"), [(torch.float16, 0.02), (torch.bfloat16, 0.15)])
@pytest.mark.parametrize("labels", [False, True])
def test_half_is_near_the_full_pass_in_fp32(dtype, share, labels):
    prior = make(4, 5, num_codebooks=2, num_classes=3 if labels else 0)
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    codes = torch.randint(7, (2, 4, 5, 2), generator=torch.Generator().manual_seed(1))
    given = torch.tensor([0, 2]) if labels else None
    with torch.inference_mode():
        full = prior(codes, given)
        logits, cached = (
            pixelcnn_graph(prior, "logits", dtype).module(codes, given),
            cached_logits(prior, codes, given, dtype),
        )
    for found in (logits, cached):
        assert found.dtype == torch.float32
        assert 0 < float((found - full).abs().max()) < share * float(full.std())
    for name, value in prior.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_equals_the_full_pass_at_each_place_of_32x32(batch):
    cached, full = both((batch, 32, 32, 1), labels=True, channels=8)
    assert cached.shape == full.shape == (batch, 32, 32, 1, 7)
    assert float((cached - full).abs().max()) < 1e-4
    # Or agreement would mean little.
    assert float(full.std(dim=(1, 2)).min()) > 1e-3


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (5, 9)])
def test_any_grid(size):
    cached, full = both((2, *size, 1), double=True)
    torch.testing.assert_close(cached, full, atol=1e-10, rtol=0)


def test_the_table_of_graphs_is_what_they_take_and_give():
    prior = make(6, 6, num_codebooks=2, num_classes=3)
    sizes = {"batch": 3, "width": 6, "height": 6}
    for name in GRAPHS:
        graph = pixelcnn_graph(prior, name)
        made = [
            [torch.zeros(t.resolve(sizes), dtype=getattr(torch, t.dtype)) for t in tensors]
            for tensors in (graph.inputs, graph.caches)
        ]
        names = [t.name for t in graph.inputs]
        if "top_k" in names:
            made[0][names.index("top_k")] += 2
        with torch.inference_mode():
            outputs, kept = graph.call(dict(zip(names, made[0], strict=True)), made[1])
        for tensor in graph.outputs:
            found = outputs[tensor.name]
            assert tuple(found.shape) == tensor.resolve(sizes)
            assert str(found.dtype) == f"torch.{tensor.dtype}"
        for tensor, found in zip(graph.kept(), kept, strict=True):
            assert tuple(found.shape) == tensor.resolve(sizes)
            assert tensor.name.startswith("kept")
    with pytest.raises(ValueError, match="no graph 'column'"):
        pixelcnn_graph(prior, "column")


def reference(logits, noise, temperature, top_k=None, top_p=1.0):
    """`draw` of one distribution, in plain float64; and the codes that may be drawn."""
    logits = np.asarray(logits, np.float64)
    if temperature == 0:
        best = int(logits.argmax())
        return best, {best}
    p = np.exp((logits - logits.max()) / temperature)
    p /= p.sum()
    order = sorted(range(len(p)), key=lambda i: (-p[i], i))[: top_k or len(p)]
    kept, held = [], 0.0
    for i in order:
        if held >= top_p and top_p < 1:
            break
        kept.append(i)
        held += p[i]
    total = sum(p[i] for i in kept)
    running = 0.0
    for i in sorted(kept):
        running += p[i]
        if running > noise * total and p[i] > 0:
            return i, set(kept)
    return max(kept), set(kept)


def drawn(logits, noise, temperature=1.0, top_k=None, top_p=None):
    """`draw` in float32; filters only where they are asked for."""
    logits = torch.as_tensor(np.asarray(logits), dtype=torch.float32)
    noise = torch.as_tensor(np.asarray(noise), dtype=torch.float32)
    heat = torch.tensor([temperature], dtype=torch.float32)
    if top_k is None and top_p is None:
        return draw(logits, noise, heat).numpy()
    k = torch.tensor([top_k or logits.shape[-1]], dtype=torch.int32)
    return draw(logits, noise, heat, k, torch.tensor([top_p or 1.0])).numpy()


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize(
    ("top_k", "top_p"), [(None, None), (1, None), (5, None), (None, 0.6), (6, 0.5)]
)
def test_draws_as_the_reference(temperature, top_k, top_p):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (1000, 16))
    noise = rng.random(1000)
    found = drawn(logits, noise, temperature, top_k, top_p)
    expected = [
        reference(one.astype(np.float32), u, temperature, top_k, top_p or 1.0)[0]
        for one, u in zip(logits, noise, strict=True)
    ]
    # A draw may fall on the other side of a boundary by rounding; with 1,000 that is rare.
    assert (found != np.array(expected)).sum() <= 1
    assert len(set(expected)) > 10


def kept_codes(logits, **options):
    """The codes that come up over a fine comb of noise."""
    noise = (np.arange(4000) + 0.5) / 4000
    rows = np.tile(np.asarray(logits, np.float32), (4000, 1))
    return set(drawn(rows, noise, **options).tolist())


def test_top_k_keeps_exactly_k():
    p = np.array([0.1, 0.2, 0.05, 0.3, 0.15, 0.2])
    for k, expected in (
        (1, {3}),
        (2, {1, 3}),
        (3, {1, 3, 5}),
        (4, {1, 3, 4, 5}),
        (6, set(range(6))),
    ):
        assert kept_codes(np.log(p), top_k=k) == expected
    # Equal ones, too: the first.
    assert kept_codes(np.zeros(8), top_k=3) == {0, 1, 2}
    assert kept_codes([1.0, 0, 1, 0, 1, 0], top_k=4) == {0, 1, 2, 4}


def test_top_p_keeps_the_fewest_that_hold_it():
    p = np.array([0.1, 0.4, 0.05, 0.3, 0.15])
    cases = ((0.01, {1}), (0.39, {1}), (0.41, {1, 3}), (0.69, {1, 3}), (0.71, {1, 3, 4}))
    for top_p, expected in (*cases, (0.97, set(range(5))), (1.0, set(range(5)))):
        assert kept_codes(np.log(p), top_p=top_p) == expected, top_p
    assert kept_codes(np.zeros(8), top_p=0.3) == {0, 1, 2}
    # Of what top-k leaves, shares are those of the whole distribution.
    assert kept_codes(np.log(p), top_k=3, top_p=0.65) == {1, 3}


def test_temperature_0_is_the_most_likely_whatever_else():
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (200, 11)).astype(np.float32)
    for noise in (HALF, 0.5, 1 - HALF):
        for options in ({}, {"top_k": 3}, {"top_p": 0.1}):
            found = drawn(logits, np.full(200, noise), 0.0, **options)
            np.testing.assert_array_equal(found, logits.argmax(-1))
    # So near to 0 that a division would overflow.
    for tiny in (1e-7, 1e-38, 1e-42):
        np.testing.assert_array_equal(drawn(logits * 30, rng.random(200), tiny), logits.argmax(-1))


def test_filters_that_keep_everything_change_nothing():
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 4, (5000, 64))
    noise = np.concatenate([rng.random(4000), np.full(500, HALF), np.full(500, 1 - HALF)])
    plain = drawn(logits, noise)
    np.testing.assert_array_equal(drawn(logits, noise, top_k=64), plain)
    np.testing.assert_array_equal(drawn(logits, noise, top_p=1.0), plain)
    assert len(set(plain.tolist())) == 64


def test_the_ends_of_the_noise():
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 1, (500, 32))
    logits[:, [0, 1, 30, 31]] = -np.inf
    logits[250:, 7] = 200  # and all others vanish in float32
    for options in ({}, {"top_k": 32}, {"top_p": 0.999}, {"top_k": 1}):
        for noise in (HALF, 1 - HALF):
            found = drawn(logits, np.full(500, noise), **options)
            assert ((found >= 2) & (found <= 29)).all()
            assert (found[250:] == 7).all()
    assert (drawn(logits, np.full(500, HALF))[:250] == 2).all()
    assert (drawn(logits, np.full(500, 1 - HALF))[:250] == 29).all()


def test_codes_of_no_probability_are_never_drawn():
    logits = np.full(9, -np.inf)
    logits[[2, 5]] = 0
    for options in ({}, {"top_k": 5}, {"top_p": 0.9}):
        assert kept_codes(logits, **options) == {2, 5}


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_frequencies(temperature):
    rng = np.random.default_rng(6)
    logits = rng.normal(0, 1.5, 12)
    count = 20_000
    found = drawn(np.tile(logits, (count, 1)), rng.random(count), temperature)
    p = np.exp(logits / temperature)
    p /= p.sum()
    share = np.bincount(found, minlength=12) / count
    # Five standard deviations.
    assert (abs(share - p) < 5 * np.sqrt(p * (1 - p) / count)).all()


def test_a_row_of_its_own_draws_the_same_in_any_batch():
    rng = np.random.default_rng(7)
    logits, noise = rng.normal(0, 2, (64, 33)), rng.random(64)
    whole = drawn(logits, noise, top_k=9, top_p=0.8)
    alone = [
        int(drawn(logits[i : i + 1], noise[i : i + 1], top_k=9, top_p=0.8)[0]) for i in range(64)
    ]
    assert whole.tolist() == alone
