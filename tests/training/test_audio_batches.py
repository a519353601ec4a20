import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest

from vqtrt.config.audio import SpeechDataConfig
from vqtrt.data.source import Item
from vqtrt.training.audio_batches import CachedClips, CropShape, crop, training_crops

SHAPE = CropShape(codes=3, margin=2, stride=4)


class Counting:
    """Recordings whose samples say which they are and where, and how often each was read."""

    classes = ("ann", "bob")

    def __init__(self, lengths):
        self.lengths = lengths
        self.reads = []

    def items(self):
        return (Item(f"{i}.wav", i % 3 - 1, i) for i in range(len(self.lengths)))

    def read(self, item, preprocessing=None):
        self.reads.append(item.key)
        return samples(item.key, self.lengths[item.key])


def samples(number, length):
    """On the grid of 16 bits, none of them 0."""
    return ((1000 * (number + 1) + np.arange(length)) / 32767).astype(np.float32)


def crops(lengths, pieces=None, **options):
    source: Any = Counting(lengths)
    clips = CachedClips(source, SpeechDataConfig())
    pieces = np.arange(len(lengths)) if pieces is None else pieces
    settings: dict[str, Any] = {"batch_size": 4, "seed": 3, "steps": range(5)} | options
    return list(training_crops(clips, list(source.items()), pieces, SHAPE, **settings)), source


def test_a_crop_has_what_is_around_it():
    audio = samples(0, 4 * 20)
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(100):
        made, valid_mask = crop(audio, SHAPE, rng)
        assert (made.shape, valid_mask.shape) == ((4 * 7,), (7,))
        first = np.argmax(made > 0)
        # Two codes before the crop, so far as there are any.
        start = round(made[first] * 32767) - 1000 - first + 8
        assert 0 <= start <= 4 * 17
        assert start % 4 == 0
        starts.add(start // 4)
        expected = np.pad(audio, (8, 8))[start : start + 28]
        np.testing.assert_array_equal(made, expected)
        places = np.arange(start // 4 - 2, start // 4 + 5)
        np.testing.assert_array_equal(valid_mask, (places >= 0) & (places < 20))
    assert starts == set(range(18))


def test_a_short_recording_is_filled_up_with_zeros():
    made, valid_mask = crop(samples(0, 5), SHAPE, np.random.default_rng(0))
    np.testing.assert_array_equal(made, np.pad(samples(0, 5), (8, 15)))
    # Five samples are two codes.
    assert valid_mask.tolist() == [False, False, True, True, False, False, False]


def test_without_a_generator_the_first_crop():
    made, _ = crop(samples(0, 4 * 20), SHAPE)
    np.testing.assert_array_equal(made, np.pad(samples(0, 20), (8, 0)))


def test_batches_depend_on_seed_and_step_alone():
    lengths = [40, 90, 13, 200, 64, 7]
    whole, _ = crops(lengths)
    later, _ = crops(lengths, steps=range(3, 5))
    for one, other in zip(whole[3:], later, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    again, _ = crops(lengths, seed=4)
    assert not all(np.array_equal(a.audio, b.audio) for a, b in zip(whole, again, strict=True))


def test_a_batch():
    (batch, *_), _ = crops([40] * 6, batch_size=6)
    assert (batch.audio.shape, batch.audio.dtype) == ((6, 28), np.float32)
    assert (batch.valid_mask.shape, batch.valid_mask.dtype) == ((6, 7), bool)
    assert batch.speakers.dtype == np.int64
    for audio, speaker in zip(batch.audio, batch.speakers, strict=True):
        number = round(audio.max() * 32767) // 1000 - 1
        # -1, none, is the number of speakers.
        assert speaker == (2, 0, 1)[number % 3]


def test_long_recordings_are_drawn_more_often():
    # The pieces say how often: 1 of 4 is the short one.
    batches, _ = crops([40, 400], np.array([0, 1, 1, 1]), steps=range(20))
    speakers = np.concatenate([batch.speakers for batch in batches])
    assert np.bincount(speakers).tolist() == [60, 0, 20]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_partition_a_batch(world):
    lengths = [50] * 9
    whole, _ = crops(lengths)
    parts = [crops(lengths, rank=rank, world=world)[0] for rank in range(world)]
    for step, batch in enumerate(whole):
        speakers = np.concatenate([part[step].speakers for part in parts])
        assert sorted(speakers) == sorted(batch.speakers)


def test_recordings_stay_in_memory_up_to_a_size():
    source: Any = Counting([1000, 2**20])
    clips = CachedClips(source, SpeechDataConfig(cache_mib=1))
    short, long = source.items()
    for item in (short, long, short, long):
        audio = clips.read(item)
        np.testing.assert_allclose(audio, samples(item.key, source.lengths[item.key]).clip(-1, 1))
    assert source.reads == [0, 1, 1]


class Waiting(Counting):
    """Recordings each of which waits until `together` are being read at once."""

    def __init__(self, lengths: list[int], together: int) -> None:
        super().__init__(lengths)
        self.barrier = threading.Barrier(together, timeout=20)
        self.now = self.most = 0
        self.lock = threading.Lock()

    def read(self, item: Item, preprocessing: object = None) -> np.ndarray:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.barrier.wait()
        with self.lock:
            self.now -= 1
        return super().read(item)


def test_as_many_threads_read_as_there_are_workers() -> None:
    lengths = [40, 90, 13, 200, 64, 7]
    source: Any = Waiting(lengths, together=3)
    clips = CachedClips(source, SpeechDataConfig(workers=3, cache_mib=0))
    made = training_crops(
        clips,
        list(source.items()),
        np.arange(6),
        SHAPE,
        batch_size=6,
        seed=3,
        steps=range(2),
    )
    # With fewer threads the barrier would break.
    threaded = list(made)
    assert source.most == 3
    alone, _ = crops(lengths, batch_size=6, steps=range(2))
    for one, other in zip(threaded, alone, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_batch_of_long_recordings_is_never_in_memory_as_a_whole() -> None:
    source: Any = Counting([200_000] * 40)
    clips = CachedClips(source, SpeechDataConfig(workers=2, cache_mib=0))
    items = list(source.items())
    tracemalloc.start()
    try:
        list(
            training_crops(
                clips, items, np.arange(40), SHAPE, batch_size=40, seed=0, steps=range(1)
            )
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Two are read at once, with the copies that reading makes; not all forty.
    assert peak < 16 * 4 * 200_000
