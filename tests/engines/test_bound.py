import numpy as np
import pytest

from vqtrt.config.location import find_model
from vqtrt.engines.choose import open_engine
from vqtrt.engines.options import EngineOptions
from vqtrt.errors import VqtrtError

SIZES = {"batch": 3, "width": 4}


@pytest.fixture(scope="module", params=["onnxruntime", "torch"])
def engine(request, tiny_prior):
    return open_engine(find_model(tiny_prior), EngineOptions(request.param))


def row(engine):
    graph = engine.bind("priors/pixelcnn/row", SIZES)
    graph.inputs["above"][:] = np.random.default_rng(0).integers(0, 16, (3, 4, 1))
    return graph


def runs(graph, name, count):
    found = []
    for _ in range(count):
        graph.run()
        found.append(graph.outputs[name].copy())
    return found


def test_caches_move_on_and_reset(engine):
    graph = row(engine)
    assert set(graph.inputs) == {"above", "labels"}
    assert set(graph.outputs) == {"bias"}
    first = runs(graph, "bias", 3)
    assert not np.allclose(first[0], first[1])
    # After an odd number of runs and an even one.
    for count in (3, 2, 1):
        graph.reset()
        np.testing.assert_array_equal(np.stack(runs(graph, "bias", count)), np.stack(first[:count]))


def test_shared_and_skipped(engine):
    above = row(engine)
    shared = {"bias": above.outputs["bias"]}
    skipping = engine.bind("priors/pixelcnn/step", SIZES, shared=shared, skip=("logits",))
    step = engine.bind("priors/pixelcnn/step", SIZES, shared=shared)
    assert step.inputs["bias"] is above.outputs["bias"]
    assert set(skipping.outputs) == {"codes"}
    assert set(step.outputs) == {"codes", "logits"}
    for graph in (step, skipping):
        graph.inputs["noise"][:] = [[0.2], [0.5], [0.9]]
        graph.inputs["temperature"][:] = 1
        graph.inputs["code"][:] = 16
    (before,) = runs(step, "logits", 1)
    step.reset()
    above.run()
    (after,) = runs(step, "logits", 1)
    assert not np.allclose(before, after)
    skipping.run()
    np.testing.assert_array_equal(skipping.outputs["codes"], step.outputs["codes"])


def test_engines_agree(tiny_prior):
    engines = [
        open_engine(find_model(tiny_prior), EngineOptions(name))
        for name in ("onnxruntime", "torch")
    ]
    one, other = (np.stack(runs(row(engine), "bias", 3)) for engine in engines)
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert one.std() > 0.01


def test_graphs_that_are_not_there(engine):
    with pytest.raises(VqtrtError, match="no graph"):
        engine.bind("priors/other/row", SIZES)


def test_equal_buffers_are_not_shared_by_chance(engine):
    one, other = row(engine), row(engine)
    one.run()
    assert (other.outputs["bias"] == 0).all()
