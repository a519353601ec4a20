import math
from typing import Any

import numpy as np
import pytest
from PIL import Image
from speech_doubles import RATE, STRIDE, FakeSpeech, FakeSpeechEngine, noise

from vqtrt.audio import chunks
from vqtrt.audio import evaluate as module
from vqtrt.audio.evaluate import AudioMetrics, evaluate
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.data.audio.mel import mel_spectrogram
from vqtrt.errors import AudioError, VqtrtError

LENGTHS = [600, 900, 7, 300, 1, 145, 144, 33, 1500, 20]
SPEAKERS = ("bob", "zoe")


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_SAMPLES", 30 * STRIDE)


def figures(source, *, batch_size: int = 4, engine=None, **options):
    tokenizer = AudioTokenizer(engine or FakeSpeechEngine(speakers=SPEAKERS), batch_size=batch_size)
    settings: dict[str, Any] = {"root": "voices", "workers": 2, "speaker": "zoe"} | options
    return evaluate(tokenizer, source, **settings)


def expected(index: int, speaker: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Audio, codes and what they become."""
    engine = FakeSpeechEngine(speakers=SPEAKERS)
    audio = noise(index, LENGTHS[index])
    codes = engine.encoder(np.pad(audio, (0, -len(audio) % STRIDE))[None])
    return audio, codes[0], engine.decoder(codes, np.array([speaker]))[0, : len(audio)]


@pytest.mark.parametrize("bad", [[], [0, 5, 8]])
@pytest.mark.parametrize("batch_size", [1, 64])
def test_equals_a_direct_computation(bad, batch_size):
    source = FakeSpeech(LENGTHS, bad, classes=SPEAKERS)
    found = figures(source, on_error="skip", batch_size=batch_size)
    kept = [expected(index, 1) for index in range(len(LENGTHS)) if index not in bad]
    x, y = (np.concatenate([one[part] for one in kept]).astype(np.float64) for part in (0, 2))
    snr = 10 * math.log10(np.square(x).sum() / np.square(x - y).sum())
    assert found["snr_db"] == pytest.approx(snr, rel=1e-9)
    how = {"n_fft": 256, "hop": 64, "n_mels": 40}
    mels = [[mel_spectrogram(one[part], RATE, **how) for one in kept] for part in (0, 2)]
    a, b = (np.concatenate(part) * 10 / math.log(10) for part in mels)
    distance = np.sqrt(np.square(a - b).mean(1)).mean()
    assert found["log_mel_db"] == pytest.approx(distance, rel=1e-4)
    nmse = np.square(a - b).sum() / np.square(a - a.mean(0)).sum()
    assert found["log_mel_nmse"] == pytest.approx(nmse, rel=1e-4)
    codes = np.concatenate([one[1] for one in kept])
    p = np.bincount(codes, minlength=200) / len(codes)
    entropy = -sum(q * math.log(q) for q in p if q)
    assert found["perplexity"] == pytest.approx(math.exp(entropy), rel=1e-12)
    assert found["codes_used"] == np.count_nonzero(p)
    assert (found["clips"], found["rejected"]) == (len(kept), len(bad))
    assert found["seconds"] == pytest.approx(len(x) / RATE)
    assert found["codes_per_second"] == RATE / STRIDE
    assert found["bits_per_second"] == pytest.approx(RATE / STRIDE * math.log2(200))


def test_long_recordings_are_compared_in_pieces(monkeypatch):
    whole = figures(FakeSpeech([100_000], classes=SPEAKERS))
    monkeypatch.setattr(module, "_PIECE", 1 << 13)
    pieces = figures(FakeSpeech([100_000], classes=SPEAKERS))
    for key in ("snr_db", "seconds", "perplexity"):
        assert pieces[key] == pytest.approx(whole[key], rel=1e-9)
    # Beyond the ends of a piece there is nothing.
    assert pieces["log_mel_db"] == pytest.approx(whole["log_mel_db"], rel=0.05)


def test_in_their_own_voices():
    class Known(FakeSpeech):
        def items(self):
            return (item for item in super().items() if item.label >= 0)

    found = figures(Known(LENGTHS, classes=SPEAKERS), speaker=None)
    kept = [expected(i, i % 3 - 1) for i in range(len(LENGTHS)) if i % 3]
    x, y = (np.concatenate([one[part] for one in kept]).astype(np.float64) for part in (0, 2))
    snr = 10 * math.log10(np.square(x).sum() / np.square(x - y).sum())
    assert found["snr_db"] == pytest.approx(snr, rel=1e-9)
    # The names count, not the order.
    other = figures(
        Known(LENGTHS, classes=SPEAKERS),
        speaker=None,
        engine=FakeSpeechEngine(speakers=("zoe", "bob")),
    )
    assert other["snr_db"] != found["snr_db"]
    assert other["perplexity"] == found["perplexity"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (SPEAKERS, r"000000\.wav.*has no speaker; .*--speaker-pattern.*--speaker: bob, zoe"),
        (("eve", "zoe"), r"000001\.wav.*is of eve, unknown to the model"),
    ],
)
def test_voices_that_the_model_does_not_know(classes, message):
    def fail(item, block):
        raise AssertionError(item)

    class Source(FakeSpeech):
        def items(self):
            return (item for item in super().items() if item.label >= 0 or classes == SPEAKERS)

    with pytest.raises(VqtrtError, match=message):
        figures(Source(LENGTHS, before=fail, classes=classes), speaker=None)
    with pytest.raises(VqtrtError, match="speaker eve: unknown to the model"):
        figures(Source(LENGTHS, before=fail), speaker="eve")


def test_a_model_without_speakers():
    found = figures(
        FakeSpeech(LENGTHS, classes=SPEAKERS), speaker=None, engine=FakeSpeechEngine(speakers=())
    )
    assert found["clips"] == 10


def test_the_samples_of_a_wavenet_are_drawn():
    engine = FakeSpeechEngine(speakers=SPEAKERS)
    tokenizer = AudioTokenizer(engine)
    tokenizer.speech = engine.speech.model_copy(update={"decoder": "wavenet"})
    source = FakeSpeech(LENGTHS, classes=SPEAKERS)
    found = evaluate(tokenizer, source, root="x", workers=1, speaker="bob")
    assert found["snr_db"] is None
    assert found["log_mel_db"] > 0


def test_stops_at_what_cannot_be_read():
    with pytest.raises(AudioError, match=r"000005\.wav"):
        figures(FakeSpeech(LENGTHS, [5], classes=SPEAKERS))


def test_nothing_that_can_be_read():
    with pytest.raises(VqtrtError, match="none of its 3 files is a recording"):
        figures(FakeSpeech([5, 6, 7], range(3)), on_error="skip")


def test_grid(tmp_path):
    source, grid = FakeSpeech(LENGTHS, classes=SPEAKERS), tmp_path / "grid.png"
    assert figures(source, grid=grid) == figures(source)
    with Image.open(grid) as image:
        three = image.size
    alone = FakeSpeechEngine(speakers=("ann",))
    figures(source, grid=grid, engine=alone, speaker="ann")
    with Image.open(grid) as image:
        two = image.size
    # Where there is one speaker, nobody is converted.
    assert two[0] < three[0]
    assert two[1] == three[1]


def test_what_the_grid_shows(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "vqtrt.data.audio.waveforms.clips_picture", lambda *call: shown.append(call)
    )
    monkeypatch.setattr(module, "_SHOWN_SECONDS", 800 / RATE)
    figures(FakeSpeech(LENGTHS, classes=SPEAKERS), grid=tmp_path / "grid.png")
    ((path, rows, rate),) = shown
    assert (path, rate) == (tmp_path / "grid.png", RATE)
    # The first, the last and one between, in order; the longest is cut.
    assert [title for title, _ in rows] == ["000000.wav", "000004.wav", "000009.wav"]
    for (_, panels), index in zip(rows, (0, 4, 9), strict=True):
        captions = [caption for caption, _ in panels]
        assert captions == ["original", "reconstruction", "as bob"]
        (original, _, made), (_, codes, converted) = expected(index, 1), expected(index, 0)
        for found, wanted in zip([audio for _, audio in panels], (original, made), strict=False):
            np.testing.assert_allclose(found, wanted, atol=1e-6)
        np.testing.assert_allclose(panels[2][1], converted, atol=1e-6)
        assert len(codes) == -(-LENGTHS[index] // STRIDE)


def test_a_grid_that_cannot_be_written_is_known_before_any_work(tmp_path):
    read = []
    source = FakeSpeech(LENGTHS, before=lambda *call: read.append(call), classes=SPEAKERS)
    with pytest.raises(VqtrtError, match="nope: no such folder; create it first"):
        figures(source, grid=tmp_path / "nope/grid.png")
    assert read == []


def test_progress():
    calls = []
    source = FakeSpeech(LENGTHS, [1], classes=SPEAKERS)
    figures(source, on_error="skip", progress=lambda *call: calls.append(call))
    assert calls == sorted(calls)
    assert {total for _, total in calls} == {20}
    assert calls[-1] == (20, 20)


# AudioMetrics


def test_without_errors():
    metrics = AudioMetrics(8000)
    assert metrics.result() == {"log_mel_db": None, "log_mel_nmse": None, "snr_db": None}
    metrics.update(noise(0, 3000), noise(0, 3000))
    assert metrics.result() == {"log_mel_db": 0, "log_mel_nmse": 0, "snr_db": None}


def test_half_as_loud_is_6_db_less():
    metrics = AudioMetrics(16_000)
    metrics.update(noise(0, 30_000), (noise(0, 30_000) / 2).astype(np.float32))
    found = metrics.result()
    assert found["log_mel_db"] == pytest.approx(20 * math.log10(2), rel=0.02)
    assert found["snr_db"] == pytest.approx(20 * math.log10(2))


def test_the_best_single_spectrum_scores_1():
    """Of tones of one level, the mean of their spectra in dB."""
    rng = np.random.default_rng(0)
    metrics = AudioMetrics(8000)
    metrics.update(noise(1, 8000), noise(2, 8000))
    alike = metrics.result()["log_mel_nmse"]
    # Other noise of the same kind: twice the variance.
    assert alike == pytest.approx(2, rel=0.1)
    silence = AudioMetrics(8000)
    silence.update(noise(1, 8000), (1e-6 * rng.normal(size=8000)).astype(np.float32))
    assert silence.result()["log_mel_nmse"] > 10


def test_lengths_must_be_equal():
    metrics = AudioMetrics(8000)
    with pytest.raises(ValueError, match="two arrays"):
        metrics.update(noise(0, 10), noise(0, 11))
