import torch
from torch import nn

from vqtrt.models.deployed import DeployedGraph, float32, int32, multiple


class Sum(nn.Module):
    def forward(self, a, b, caches=()):
        return (a + b, a - b, [cache + 1 for cache in caches]) if caches else a + b


def test_tables():
    assert int32("codes", "batch", 3).model_dump() == {
        "name": "codes",
        "dtype": "int32",
        "shape": ("batch", 3),
        "delay": 1,
    }
    assert float32("audio", 2).dtype == "float32"
    assert (multiple(1, "t"), multiple(64, "t")) == ("t", "64*t")


def test_one_output_and_no_caches():
    graph = DeployedGraph(Sum(), (int32("b", 1), int32("a", 1)), (int32("c", 1),))
    made, kept = graph.call({"b": torch.tensor([2]), "a": torch.tensor([5])})
    assert ({name: int(value) for name, value in made.items()}, kept) == ({"c": 7}, [])
    assert graph.kept() == ()


def test_caches():
    caches = (float32("cache0", 2), float32("cache1", 1).model_copy(update={"delay": 4}))
    outputs = (int32("sum", 1), int32("difference", 1))
    graph = DeployedGraph(Sum(), (int32("a", 1), int32("b", 1)), outputs, caches)
    made, kept = graph.call(
        {"a": torch.tensor([5]), "b": torch.tensor([2])}, [torch.zeros(2), torch.ones(1)]
    )
    assert {name: int(value) for name, value in made.items()} == {"sum": 7, "difference": 3}
    assert [cache.tolist() for cache in kept] == [[1, 1], [2]]
    assert [(spec.name, spec.shape, spec.delay) for spec in graph.kept()] == [
        ("kept0", (2,), 1),
        ("kept1", (1,), 4),
    ]
