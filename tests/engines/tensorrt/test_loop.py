import pytest

from vqtrt.engines.rings import period
from vqtrt.engines.tensorrt.bound import Caches, aligned, layout
from vqtrt.engines.tensorrt.loop import Strip, step_addresses
from vqtrt.formats.bundle import TensorSpec


class FakeCaches(Caches):
    """At address 10,240, with buffers of 256 bytes."""

    def __init__(self, *delays):
        self._caches = [
            TensorSpec(name=f"cache{i}", dtype="float32", shape=(1,), delay=delay)
            for i, delay in enumerate(delays)
        ]
        self.period = period(self._caches)
        self._strides = {cache.name: 256 for cache in self._caches}
        self._offsets, _ = layout({c.name: 2 * c.delay * 256 for c in self._caches})
        self._memory = type("Memory", (), {"address": 10_240})


def test_alignment():
    assert [aligned(n) for n in (0, 1, 256, 257)] == [0, 256, 256, 512]
    assert layout({"a": 1, "b": 300, "c": 256}) == ({"a": 0, "b": 256, "c": 768}, 1024)
    assert layout({}) == ({}, 0)


def test_the_addresses_of_a_row():
    strips = {"column": Strip(1000, 256), "noise": Strip(3000, 512), "codes": Strip(6000, 256)}
    fixed = {"bias": 1, "temperature": 2, "code": 3}
    plan = [
        step_addresses(c, fixed=fixed, strips=strips, start_code=99, caches=FakeCaches(1, 1))
        for c in range(4)
    ]
    assert [step["column"] for step in plan] == [1000, 1256, 1512, 1768]
    assert [step["noise"] for step in plan] == [3000, 3512, 4024, 4536]
    # What a position draws is what the next one has to its left.
    assert [step["code"] for step in plan] == [99, *(step["codes"] for step in plan[:3])]
    assert [step["codes"] for step in plan] == [6000, 6256, 6512, 6768]
    # What it keeps is the cache of the next, and a row begins with the first set.
    assert [step["cache1"] for step in plan] == [10_752, 11_008, 10_752, 11_008]
    assert [step["kept1"] for step in plan[:3]] == [step["cache1"] for step in plan[1:]]
    assert [step["kept0"] for step in plan[:3]] == [step["cache0"] for step in plan[1:]]
    assert all((step["bias"], step["temperature"]) == (1, 2) for step in plan)
    places = [{step[name] for name in ("codes", "kept0", "kept1")} for step in plan]
    reads = [{step[name] for name in ("code", "cache0", "cache1", "noise")} for step in plan]
    assert not any(read & written for read, written in zip(reads, places, strict=True))


@pytest.mark.parametrize("delays", [(1,), (4,), (1, 2, 8), (3, 2)])
def test_caches_come_back_after_their_delay(delays):
    caches = FakeCaches(*delays)
    turns = [caches.addresses(turn) for turn in range(2 * caches.period)]
    assert turns[: caches.period] == turns[caches.period :]
    for i, delay in enumerate(delays):
        written, read = ([turn[f"{kind}{i}"] for turn in turns] for kind in ("kept", "cache"))
        assert read[delay:] == written[:-delay]
        # From there until it is read, nobody writes to it.
        for turn in range(len(turns) - delay):
            assert written[turn] not in written[turn + 1 : turn + delay + 1]
    places = [
        {turn[f"{kind}{i}"] for turn in turns for kind in ("kept", "cache")}
        for i in range(len(delays))
    ]
    assert sum(map(len, places)) == len(set().union(*places)) == 2 * sum(delays)
