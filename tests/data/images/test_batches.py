import threading

import numpy as np
import pytest
from doubles import FakeSource

from vqtrt.data.images.batches import Batch, read_batches, read_chunks
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.reading import default_workers
from vqtrt.errors import ImageError

SIZE = Preprocessing(height=4, width=8)


def batches(source, **options) -> list[Batch]:
    return list(read_batches(source, SIZE, **{"batch_size": 4, "workers": 2} | options))


def names(found: list[Batch]) -> list[str]:
    return [item.name for batch in found for item in batch.items]


@pytest.mark.parametrize("workers", [1, 2, 3, 16])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_order_and_pixels_do_not_depend_on_batches_or_threads(batch_size, workers):
    source = FakeSource(11)
    found = batches(source, batch_size=batch_size, workers=workers)
    assert names(found) == [item.name for item in source.items()]
    sizes = [len(batch.items) for batch in found]
    assert sizes == [batch_size] * (11 // batch_size) + [11 % batch_size] * (11 % batch_size > 0)
    expected = np.stack([source.read(item, SIZE) for item in source.items()])
    got = np.concatenate([batch.images for batch in found])
    assert got.dtype == np.uint8
    assert got.shape == (11, 4, 8, 3)
    np.testing.assert_array_equal(got, expected)


def test_order_holds_where_early_images_take_longest():
    waiting = {index: threading.Event() for index in range(6)}

    def before(item):
        # Within a batch, an image is read only when the one after it is.
        if item.key % 3 < 2:
            assert waiting[item.key + 1].wait(10)
        waiting[item.key].set()

    found = batches(FakeSource(6, before=before), batch_size=3, workers=9)
    assert names(found) == [f"{index:06}.png" for index in range(6)]


def test_no_items_no_batches():
    assert batches(FakeSource(0)) == []
    assert batches(FakeSource(5), skip=5) == []
    assert batches(FakeSource(5), skip=9) == []


def test_skip_starts_later():
    found = batches(FakeSource(11), skip=5)
    assert names(found) == [f"{index:06}.png" for index in range(5, 11)]


def test_stops_at_the_first_bad_image_after_the_good_batches():
    source = FakeSource(12, bad=[6, 5, 9])
    found = read_batches(source, SIZE, batch_size=4, workers=3)
    assert names([next(found)]) == ["000000.png", "000001.png", "000002.png", "000003.png"]
    with pytest.raises(ImageError, match=r"^000005\.png: not an image") as caught:
        next(found)
    # Which option passes over it is for the command to say.
    assert "--" not in str(caught.value)


def test_skipping_lists_what_is_bad():
    found = batches(FakeSource(8, bad=[1, 3, 4, 5, 6, 7]), on_error="skip")
    assert [(len(batch.items), len(batch.rejected)) for batch in found] == [(2, 2), (0, 4)]
    rejected = [(item.name, reason) for batch in found for item, reason in batch.rejected]
    assert [name for name, _ in rejected] == [f"{index:06}.png" for index in (1, 3, 4, 5, 6, 7)]
    assert all("(bad)" in reason for _, reason in rejected)
    np.testing.assert_array_equal(
        found[0].images, np.stack([FakeSource(8).read(i, SIZE) for i in found[0].items])
    )
    assert found[1].images.shape == (0, 4, 8, 3)


def test_other_errors_are_not_taken_for_bad_images():
    def before(item):
        if item.key == 2:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        batches(FakeSource(8, before=before), on_error="skip")


def test_reads_ahead_but_not_far():
    read, third = [], threading.Event()

    def before(item):
        read.append(item.key)
        if item.key == 2:
            third.set()

    found = read_batches(FakeSource(1000, before=before), SIZE, batch_size=1, workers=1)
    next(found)
    # Nobody asks for more, and yet the next batches are on their way.
    assert third.wait(10)
    found.close()
    assert max(read) < 10


def test_chunks_are_asked_for_as_they_are_needed():
    source, asked = FakeSource(100), []

    def chunks():
        for item in source.items():
            asked.append(item.key)
            yield [item]

    found = read_chunks(source, SIZE, chunks(), workers=1)
    next(found)
    assert len(asked) < 10
    found.close()


def test_threads_end_with_the_generator():
    def count():
        return sum(thread.name.startswith("vqtrt-read") for thread in threading.enumerate())

    found = read_batches(FakeSource(100), SIZE, batch_size=4, workers=4)
    next(found)
    assert count() > 0
    found.close()
    assert count() == 0


def test_default_workers():
    assert 1 <= default_workers() <= 16
