import tracemalloc

import numpy as np
import pytest
from doubles import FakeSource

from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.training.images import ImageTask
from vqtrt.training.loader import Split


def test_the_variance_of_many_pixels_needs_no_large_array(make_config) -> None:
    size = Preprocessing(height=64, width=64)
    config = make_config()
    data = config.data.model_copy(update={"preprocessing": size})
    source = FakeSource(300)
    task = ImageTask.__new__(ImageTask)
    task.config = config.model_copy(update={"data": data})
    task.items, task.source = Split(list(source.items()), []), source
    tracemalloc.start()
    try:
        found = task._variance()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    whole = np.stack([source.read(item, size) for item in source.items()])
    assert found == pytest.approx(np.var(whole / 255.0), rel=1e-12)
    # All pixels as float64 are 29 MB; the batches that are read ahead are 1.2 MB each.
    assert peak < 8_000_000


def test_the_variance_of_one_color_is_not_zero(make_config, monkeypatch) -> None:
    source = FakeSource(3)
    monkeypatch.setattr(source, "read", lambda item, size: np.full((16, 16, 3), 255, np.uint8))
    task = ImageTask.__new__(ImageTask)
    task.config, task.source = make_config(), source
    task.items = Split(list(source.items()), [])
    assert task._variance() == 1e-6
