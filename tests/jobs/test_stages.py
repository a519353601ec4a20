"""Shares of reading, engine and writing, on a clock that tests turn."""

import itertools
from pathlib import Path

import pytest
from doubles import FakeEngine, FakeSource
from pipeline_jobs import encode as encode_images
from speech_doubles import FakeSpeech, FakeSpeechEngine
from speech_jobs import encode as encode_clips

from vqtrt.audio import encode as audio_encode
from vqtrt.images import encode as image_encode
from vqtrt.jobs.stages import Stages, bottleneck


class Clock:
    """Seconds, which stand still until work takes some."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def takes(self, seconds: float):
        """A function that takes so long."""

        def work(*_) -> None:
            self.now += seconds

        return work


def assert_broken(stages: Stages, clock: Clock) -> None:
    """A stage that an error ends is also counted."""

    def breaks() -> None:
        with stages.of("write"):
            clock.now += 1
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        breaks()


def test_stages_inside_of_each_other_are_counted_once():
    clock = Clock()
    stages = Stages(clock)
    assert (stages.shares(), bottleneck(stages.shares())) == ({}, None)
    with stages.of("engine"):
        clock.now += 3
        with stages.of("read"):
            clock.now += 5
        clock.now += 1
    clock.now += 100  # of nobody
    assert_broken(stages, clock)
    assert stages.shares() == {"read": 0.5, "engine": 0.4, "write": 0.1}
    assert bottleneck(stages.shares()) == "read"


def test_the_getting_of_items_is_counted():
    clock = Clock()
    stages = Stages(clock)

    def made():
        for number in range(3):
            clock.now += 1
            yield number

    taken = []
    for number in stages.each("read", made()):
        taken.append(number)
        with stages.of("engine"):
            clock.now += 3
    assert taken == [0, 1, 2]
    assert stages.shares() == {"read": 0.25, "engine": 0.75, "write": 0.0}
    assert list(itertools.islice(stages.each("read", iter("ab")), 1)) == ["a"]


@pytest.mark.parametrize("out", ["codes.npy", "codes"])
@pytest.mark.parametrize("slow", ["read", "engine", "write"])
@pytest.mark.parametrize("kind", ["images", "clips"])
def test_a_job_names_what_is_slow(tmp_path: Path, monkeypatch, out, slow, kind):
    """One worker reads while the clock stands still for others: what it takes is waited for."""
    clock = Clock()
    for module in (image_encode, audio_encode):
        monkeypatch.setattr(module, "Stages", lambda: Stages(clock))
    takes = {
        stage: clock.takes(3 if stage == slow else 0.001)
        for stage in Stages(clock).each("read", ("read", "engine", "write"))
    }
    module = image_encode if kind == "images" else audio_encode
    write = module._write

    def slow_write(*arguments) -> None:
        takes["write"]()
        write(*arguments)

    monkeypatch.setattr(module, "_write", slow_write)
    if kind == "images":
        engine = FakeEngine(before=lambda *_: takes["engine"]())
        # Read where it is waited for, not in a thread.
        batches = image_encode.read_batches

        def waited_for(*arguments, **options):
            for batch in batches(*arguments, **options):
                takes["read"]()
                yield batch

        monkeypatch.setattr(image_encode, "read_batches", waited_for)
        result = encode_images(FakeSource(9), tmp_path / out, engine=engine)
    else:
        speech = FakeSpeechEngine(before=lambda *_: takes["engine"]())
        clips = audio_encode.clips_ahead

        def ahead(*arguments, **options):
            for clip in clips(*arguments, **options):
                takes["read"]()
                yield clip

        monkeypatch.setattr(audio_encode, "clips_ahead", ahead)
        result = encode_clips(FakeSpeech([60, 900, 7]), tmp_path / out, engine=speech)
    assert bottleneck(result.stages) == slow
    assert result.stages[slow] > 0.9
