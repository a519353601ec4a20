"""What is promised of every kind of quantizer, and what is particular to `cosine` and `simvq`."""

import copy
from typing import Any, get_args

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from vqtrt.config.parts import QuantizerConfig
from vqtrt.export.onnx import write_deployed
from vqtrt.models.deployed import DeployedGraph, float32, int32
from vqtrt.models.quantize import VectorQuantizer, build_quantizer

KINDS = get_args(QuantizerConfig.model_fields["kind"].annotation)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def started(kind: str, **settings) -> tuple[VectorQuantizer, torch.Tensor]:
    told: dict[str, Any] = {
        "codebook_size": 11,
        "dim": 4,
        "num_codebooks": 2,
        "kind": kind,
    } | settings
    quantizer = build_quantizer(QuantizerConfig.model_validate(told))
    z = torch.randn(6, told["num_codebooks"] * told["dim"], 5, 3)
    quantizer.start_from(z)
    return quantizer, z


@pytest.mark.parametrize("kind", KINDS)
def test_entries_codes_and_lookup_agree(kind):
    quantizer, z = started(kind)
    quantizer.eval()
    made = quantizer(z)
    assert torch.equal(made.codes, quantizer.encode(z))
    assert torch.equal(made.vectors, quantizer.lookup(made.codes))
    entries = quantizer.entries()
    wanted = [entries[i][made.codes[..., i]] for i in range(2)]
    assert torch.equal(torch.cat(wanted, -1).permute(0, 3, 1, 2), made.vectors)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_the_nearest_by_definition(kind):
    quantizer, z = started(kind)
    entries, codes = quantizer.entries().double(), quantizer.encode(z)
    vectors = z.double().permute(0, 2, 3, 1).unflatten(-1, (2, 4))
    if kind == "cosine":
        vectors = F.normalize(vectors, dim=-1)
    distances = (vectors[..., None, :] - entries).square().sum(-1)
    assert torch.equal(codes, distances.argmin(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_deployed_form_gives_the_same_codes_and_vectors(kind, tmp_path):
    """In float32 torch, and as ONNX; whatever else is in the batch."""
    quantizer, z = started(kind)
    deployed, codes = quantizer.deployed(), quantizer.encode(z)
    rows = z.permute(0, 2, 3, 1).reshape(-1, 8)
    assert torch.equal(deployed.encode(rows), codes.reshape(-1, 2))
    torch.testing.assert_close(
        deployed.lookup(codes.reshape(-1, 2)),
        quantizer.lookup(codes).detach().permute(0, 2, 3, 1).reshape(-1, 8),
        rtol=0,
        atol=0,
    )

    class Codes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quantizer = deployed

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return self.quantizer.encode(z).to(torch.int32)

    table = [float32("z", "batch", 8)], [int32("codes", "batch", 2)]
    graph = DeployedGraph(Codes().eval(), tuple(table[0]), tuple(table[1]))
    write_deployed(graph, {"batch": 5}, tmp_path, "codes.onnx")
    path = tmp_path / "codes.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 7, len(rows)):
        (made,) = session.run(None, {"z": rows[:count].numpy()})
        np.testing.assert_array_equal(made, codes.reshape(-1, 2)[:count].numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_the_entries_towards_their_vectors(kind):
    quantizer, z = started(kind, restart_below=0)
    quantizer.train()
    optimizer = torch.optim.SGD(list(quantizer.parameters()) or [torch.zeros(1)], lr=0.1)

    def error() -> float:
        with torch.no_grad():
            return float(copy.deepcopy(quantizer).eval()(z).loss)

    before = error()
    for _ in range(60):
        optimizer.zero_grad()
        loss = quantizer(z).loss
        if loss.requires_grad:
            loss.backward()
            optimizer.step()
    assert error() < 0.95 * before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimator", ["straight-through", "rotation"])
def test_the_encoder_gets_a_gradient(kind, estimator):
    quantizer, z = started(kind, estimator=estimator)
    z.requires_grad_()
    made = quantizer(z)
    gradient = torch.randn_like(made.vectors)
    (made.vectors * gradient).sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert z.grad.norm() > 0
    if kind != "cosine" and estimator == "straight-through":
        assert torch.equal(z.grad, gradient)


def test_cosine_entries_stay_on_the_sphere():
    quantizer, z = started("cosine", codebook_size=500, restart_below=0.5)
    for _ in range(5):
        quantizer(z + torch.randn_like(z))
        lengths = quantizer.entries().norm(dim=-1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_cosine_codes_do_not_depend_on_the_length():
    quantizer, z = started("cosine")
    assert torch.equal(quantizer.encode(z), quantizer.encode(1e-3 * z))
    assert quantizer(torch.zeros(1, 8, 2, 2)).vectors.isfinite().all()


@pytest.mark.parametrize("dim", [4, 64])
def test_the_commitment_of_unit_vectors_does_not_shrink_with_their_dimensions(dim):
    quantizer, _ = started("cosine", dim=dim, beta=1.0, num_codebooks=1)
    loss = quantizer.eval()(torch.randn(50, dim, 4, 4)).loss
    assert 0.1 < float(loss) < 2.5


def test_simvq_learns_the_map_alone():
    quantizer, z = started("simvq")
    assert [name for name, _ in quantizer.named_parameters()] == ["weight"]
    before = quantizer.state_dict()["basis"].clone()
    quantizer(z).loss.backward()
    assert quantizer.weight.grad.norm() > 0  # type: ignore[union-attr, operator]
    assert torch.equal(quantizer.state_dict()["basis"], before)
    # As in the authors' code: a standard deviation of (3 D)^-1/2 at the start.
    many = build_quantizer(QuantizerConfig(kind="simvq", codebook_size=4096, dim=16))
    assert float(many.entries().std()) == pytest.approx((3 * 16) ** -0.5, rel=0.1)
