import numpy as np
import pytest

from vqtrt.config.images import DataConfig
from vqtrt.data.images.open import open_images
from vqtrt.data.source import Item
from vqtrt.errors import VqtrtError
from vqtrt.training.loader import CachedSource, batch_indices, split_items, training_batches


class Counting:
    """A source of made images that counts how often each is read."""

    classes = ()

    def __init__(self, count):
        self.count = count
        self.reads = []

    def items(self):
        return (Item(f"{i}", -1, i) for i in range(self.count))

    def read(self, item, preprocessing=None):
        self.reads.append(item.key)
        return np.full((4, 4, 3), item.key, np.uint8)


@pytest.fixture
def config():
    return DataConfig.model_validate({"workers": 2, "preprocessing": {"height": 4, "width": 4}})


@pytest.mark.parametrize(("count", "batch"), [(12, 4), (13, 4), (7, 7), (100, 1)])
def test_an_epoch_holds_each_item_at_most_once(count, batch):
    per_epoch = count // batch
    orders = []
    for epoch in range(3):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        rows = np.concatenate([batch_indices(count, batch, 5, step) for step in steps])
        assert len(rows) == per_epoch * batch
        assert len(set(rows.tolist())) == len(rows)
        assert set(rows.tolist()) <= set(range(count))
        if count % batch == 0:
            assert set(rows.tolist()) == set(range(count))
        orders.append(rows.tolist())
    assert orders[0] != orders[1] != orders[2]


def test_batches_depend_on_seed_and_step_alone():
    first = [batch_indices(50, 8, 3, step).tolist() for step in range(20)]
    backwards = [batch_indices(50, 8, 3, step).tolist() for step in reversed(range(20))]
    assert first == backwards[::-1]
    assert first != [batch_indices(50, 8, 4, step).tolist() for step in range(20)]


@pytest.mark.parametrize("count", [5, 16, 100])
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_partition_a_batch(count, world):
    for step in range(5):
        whole = batch_indices(count, 16, 0, step)
        parts = [batch_indices(count, 16, 0, step, rank, world) for rank in range(world)]
        assert [len(part) for part in parts] == [16 // world] * world
        assert sorted(np.concatenate(parts).tolist()) == sorted(whole.tolist())


def test_fewer_items_than_a_batch_are_repeated_evenly():
    for step in range(4):
        times = np.bincount(batch_indices(5, 12, 0, step), minlength=5)
        assert times.sum() == 12
        assert set(times.tolist()) <= {2, 3}


@pytest.mark.parametrize(
    ("count", "holdout", "held_out"), [(200, 8, 8), (200, 500, 20), (5, 500, 1), (2, 1, 1)]
)
def test_split_is_by_seed_and_keeps_order(count, holdout, held_out):
    split = split_items(Counting(count), holdout, seed=1)
    names = [[int(item.name) for item in part] for part in split]
    assert len(names[1]) == held_out
    assert sorted(names[0] + names[1]) == list(range(count))
    assert [sorted(part) for part in names] == names
    assert split == split_items(Counting(count), holdout, seed=1)
    if count == 200:
        assert split != split_items(Counting(count), holdout, seed=2)


def test_split_of_one_image_says_how_many_are_needed():
    with pytest.raises(VqtrtError, match="at least 2 images"):
        split_items(Counting(1), 1, 0)


def test_cached_images_are_read_once(config):
    source = Counting(6)
    cached = CachedSource(source, 6, config)
    items = list(cached.items())
    for _ in range(3):
        for item in items:
            assert (cached.read(item) == item.key).all()
    assert sorted(source.reads) == list(range(6))


def test_what_does_not_fit_is_not_kept(config):
    source = Counting(6)
    cached = CachedSource(source, 6, config.model_copy(update={"cache_mib": 0}))
    for _ in range(2):
        for item in cached.items():
            cached.read(item)
    assert len(source.reads) == 12


def test_training_batches_are_the_rows_of_their_steps(config):
    source = Counting(20)
    items = list(source.items())
    batches = training_batches(source, items, config, batch_size=6, seed=2, steps=range(3, 9))
    seen = [batch[:, 0, 0, 0].tolist() for batch in batches]
    assert seen == [batch_indices(20, 6, 2, step).tolist() for step in range(3, 9)]


def test_training_batches_of_real_images():
    config = DataConfig.model_validate({"preprocessing": {"height": 8, "width": 12}})
    source = open_images("shapes:10")
    items = list(source.items())
    (batch,) = training_batches(
        source, items, config, batch_size=4, seed=0, steps=range(1), rank=1, world=2
    )
    row = batch_indices(10, 4, 0, 0)[1]
    assert batch.shape == (2, 8, 12, 3)
    np.testing.assert_array_equal(batch[0], source.read(items[row], config.preprocessing))
