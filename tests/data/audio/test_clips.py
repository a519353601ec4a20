import threading
from collections.abc import Iterator

import numpy as np
import pytest
from speech_doubles import RATE, FakeSpeech, noise

from vqtrt.data.audio.clips import MOST_OPEN, read_clips
from vqtrt.data.audio.decode import AudioPreprocessing
from vqtrt.data.source import Item
from vqtrt.errors import AudioError

HOW = AudioPreprocessing(sample_rate=RATE)


def read(source, most=200, ahead=3, workers=2, skip=0):
    return read_clips(source, HOW, most=most, ahead=ahead, workers=workers, skip=skip)


@pytest.mark.parametrize("workers", [1, 2, 9])
@pytest.mark.parametrize("ahead", [0, 1, 30])
def test_recordings_come_in_order_whole_or_in_blocks(workers, ahead):
    lengths = [10, 500, 200, 201, 50, 1, 1000, 3, 4]
    names, blocks = [], 0
    for clip in read(FakeSpeech(lengths), workers=workers, ahead=ahead):
        wanted = noise(clip.item.key, lengths[clip.item.key])
        names.append(clip.item.name)
        assert clip.error is None
        if len(wanted) <= 200:
            assert clip.blocks is None
            np.testing.assert_array_equal(clip.audio, wanted)
        else:
            assert clip.audio is None
            parts = list(clip.blocks)
            blocks += len(parts)
            np.testing.assert_array_equal(np.concatenate(parts), wanted)
    assert names == [f"{index:06}.wav" for index in range(9)]
    assert blocks == 10 + 5 + 20


def test_skip_starts_later():
    found = list(read(FakeSpeech([5] * 9), skip=6))
    assert [clip.item.key for clip in found] == [6, 7, 8]
    assert list(read(FakeSpeech([5] * 9), skip=9)) == []


def test_what_cannot_be_read_is_said_where_it_is_found_out():
    found = read(FakeSpeech([100, 500], bad=[0, 1]))
    first, second = next(found), next(found)
    assert (first.audio, first.blocks) == (None, None)
    assert isinstance(first.error, AudioError)
    assert "000000.wav" in str(first.error)
    # The end of the second is not reached yet.
    assert second.error is None
    with pytest.raises(AudioError, match=r"000001\.wav"):
        list(second.blocks)
    assert list(found) == []


def test_other_errors_are_not_taken_for_bad_recordings():
    def before(item, block):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(read(FakeSpeech([5], before=before)))


def test_reads_ahead_but_not_far():
    read_keys, fourth = [], threading.Event()

    def before(item, block):
        read_keys.append(item.key)
        if item.key == 3:
            fourth.set()

    found = read(FakeSpeech([5] * 1000, before=before), workers=1)
    next(found)
    assert fourth.wait(10)
    found.close()
    assert max(read_keys) == 3


def test_a_long_recording_is_read_one_block_ahead():
    blocks, begun, coming = [], threading.Event(), threading.Event()

    def before(item, block):
        blocks.append(block)
        if block == 4:
            begun.set()
        if block == 5:
            coming.set()

    found = read(FakeSpeech([5000], before=before))
    clip = next(found)
    # 200 samples are four blocks; the fifth says that there is more.
    assert begun.wait(10)
    assert max(blocks) == 4
    parts = [next(clip.blocks) for _ in range(5)]
    assert coming.wait(10)
    assert max(blocks) == 5
    np.testing.assert_array_equal(np.concatenate(parts), noise(0, 5000)[:250])
    found.close()


@pytest.mark.parametrize("workers", [1, 3, 200])
@pytest.mark.parametrize("long", [0, 1, 2])
def test_few_recordings_are_open_and_few_samples_held(workers, long):
    """Whatever the order of long and short ones, and however far ahead may be read."""
    lengths = [300 if long and index % 3 < long else 150 for index in range(150)]
    source, lock = FakeSpeech(lengths), threading.Lock()
    blocks, now, most, held, most_held = source.blocks, 0, 0, 0, 0

    def opened(item: Item, preprocessing: AudioPreprocessing) -> Iterator[np.ndarray]:
        nonlocal now, most, held, most_held
        with lock:
            now, most = now + 1, max(most, now + 1)
        for block in blocks(item, preprocessing):
            with lock:
                held, most_held = held + len(block), max(most_held, held + len(block))
            yield block
        with lock:
            now -= 1

    source.blocks = opened
    for index, clip in enumerate(read(source, ahead=10_000, workers=workers)):
        got = clip.audio if clip.audio is not None else np.concatenate(list(clip.blocks))
        np.testing.assert_array_equal(got, noise(index, lengths[index]))
        with lock:
            held -= len(got)
    assert (index, now, held) == (149, 0, 0)
    assert most <= MOST_OPEN + 1
    # 4·200 samples, what is at the workers, and the recording whose turn it is.
    assert most_held <= 800 + (min(workers, MOST_OPEN) + 1) * 300


def test_the_blocks_of_a_long_one_come_although_all_workers_wait():
    found = read(FakeSpeech([5000] * 50), ahead=50, workers=1)
    assert [sum(map(len, clip.blocks)) for clip in found] == [5000] * 50


def test_closing_early_ends_workers_that_wait_for_room():
    found = read(FakeSpeech([500] * 50), ahead=50, workers=8)
    next(found)
    found.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("vqtrt-read")]


def test_threads_end_with_the_generator():
    def count():
        return sum(thread.name.startswith("vqtrt-read") for thread in threading.enumerate())

    found = read(FakeSpeech([500] * 10))
    next(found)
    assert count() > 0
    found.close()
    assert count() == 0
