"""No number of a stranger's bundle.json leads to much memory or time: each is set to too much."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speech_runs
from pydantic import ValidationError

from vqtrt.engines.base import Binding
from vqtrt.engines.onnxruntime import _Bound
from vqtrt.engines.rings import caches_of, period
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import INFO, MAX_DELAY, Bundle, BundleInfo, GraphSpec, TensorSpec

HOSTILE = (2**31, -1, 0, 1e10, 2**63, -(2**31))
EMPTY = {"file": "x.onnx", "sha256": "0" * 64, "inputs": [], "outputs": []}
Place = tuple[str | int, ...]


@pytest.fixture(params=["image", "conv", "wavenet"])
def content(request: pytest.FixtureRequest, tiny_prior: Path) -> dict[str, Any]:
    """A bundle.json of each kind, without its hash."""
    kind = request.param
    model = tiny_prior / "bundle" if kind == "image" else speech_runs.exported(kind).bundle
    content = json.loads((model / INFO).read_text())
    del content["self_sha256"]
    return content


def numbers(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where numbers stand."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in pairs:
            yield from numbers(part, (*place, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place


def changed(content: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    """A copy in which another value stands at a place."""
    copy = json.loads(json.dumps(content))
    part = copy
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return copy


class Session:
    """A session of ONNX Runtime as far as a graph is bound to buffers."""

    def io_binding(self) -> "Session":
        return self

    def bind_input(self, *place: object) -> None:
        """Nothing to keep."""

    bind_output = bind_input


def bind_all(info: BundleInfo) -> None:
    """Bind all graphs to buffers; fails where that takes much."""
    for name, spec in info.graphs.items():
        sizes: dict[str, int] = {}
        for tensor in (*spec.inputs, *spec.outputs):
            sizes |= {s.rpartition("*")[2]: 1 for s in tensor.shape if isinstance(s, str)}
        assert period(caches_of(spec.inputs)) <= 2 * MAX_DELAY
        how = Binding({}, (), None)
        bound = _Bound(None, name, Session(), spec, sizes, how)  # type: ignore[arg-type]
        buffers = [*bound.inputs.values(), *bound.outputs.values()]
        buffers += [buffer for _, ring in bound._rings._rings for buffer in ring]
        assert sum(buffer.nbytes for buffer in buffers) <= 2**27


def test_as_it_was_written_it_binds(content: dict[str, Any]) -> None:
    bind_all(BundleInfo.model_validate(content))


def test_every_number_has_a_bound(content: dict[str, Any]) -> None:
    places = list(numbers(content))
    assert len(places) > 12
    accepted = []
    for place in places:
        for value in HOSTILE:
            try:
                info = BundleInfo.model_validate(changed(content, place, value))
            except ValidationError:
                continue
            bind_all(info)
            accepted.append((place[-1], value))
    # Nothing but these can be 0, and nothing any of the others.
    assert set(accepted) <= {(name, 0) for name in ("context", "decoder_context", "level_db")}


def test_random_numbers_are_refused_or_bind(content: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    places = list(numbers(content))
    accepted = 0
    for _ in range(150):
        hostile = content
        for place in rng.choice(len(places), 3):
            hostile = changed(hostile, places[place], int(2 ** rng.uniform(0, 34)))
        try:
            info = BundleInfo.model_validate(hostile)
        except ValidationError:
            continue
        accepted += 1
        bind_all(info)
    assert 0 < accepted < 150


@pytest.mark.parametrize(
    "size", ["9" * 30 + "*h", "h*4", "4*", "-1*h", "0*h", "h" * 99, "h h", "", "\n", "h\n"]
)
def test_a_free_size_is_a_name_or_follows_from_one(size: str) -> None:
    with pytest.raises(ValidationError, match="is no size"):
        TensorSpec(name="x", dtype="int32", shape=("batch", size))


def graph(*inputs: TensorSpec) -> GraphSpec:
    return GraphSpec(file="x.onnx", sha256="0" * 64, inputs=inputs, outputs=())


def cache(index: int, delay: int, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=f"cache{index}", dtype="float32", shape=shape or (1,), delay=delay)


def test_delays_that_never_meet_are_refused() -> None:
    """Each is small; a loop over all of them would bind the graph 1.3e10 times."""
    primes = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31)
    assert math.lcm(*primes) > 10**10
    with pytest.raises(ValidationError, match="meet again within 16384 runs"):
        graph(*(cache(i, delay) for i, delay in enumerate(primes)))
    graph(*(cache(i, 2**i) for i in range(14)))


def test_buffers_have_a_bound_together() -> None:
    graph(*(cache(i, 2**i, "batch", 512) for i in range(14)))
    with pytest.raises(ValidationError, match="its buffers hold"):
        graph(*(cache(i, 2**i, "batch", 4096) for i in range(14)))
    with pytest.raises(ValidationError, match="its buffers hold"):
        graph(cache(0, 1, "9999999*h", "9999999*h"))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("speech", "speakers"), ["x" * 5000], "4096 characters"),
        (("model", "codebook_size"), 2**24 + 1, "less than or equal to 16777216"),
        (("speech", "hop"), 3, "has to divide"),
        (("speech", "context"), 2**22, "samples at most"),
        (("preprocessing",), {"height": 16384, "width": 16384}, "pixels: 67108864 at most"),
        (("graphs",), {str(i): EMPTY for i in range(1025)}, "at most 1024 items"),
    ],
)
def test_a_bundle_that_claims_too_much_is_refused_in_plain_words(
    place: Place, value: Any, message: str, tmp_path: Path
) -> None:
    content = json.loads((speech_runs.exported("wavenet").bundle / INFO).read_text())
    (tmp_path / INFO).write_text(json.dumps(changed(content, place, value)))
    with pytest.raises(VqtrtError, match=message) as caught:
        Bundle.open(tmp_path)
    assert "\n" not in str(caught.value)
