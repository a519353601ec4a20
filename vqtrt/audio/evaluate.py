"""How well a model keeps recordings, over a whole set, on any engine (`vqtrt eval` of speech).

What is measured is the audio that `vqtrt encode` and `vqtrt decode` would give, at any batch size.
Recordings are compared in pieces, so that of a long one only a piece lies in memory.
"""

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import NDArray

from vqtrt.audio.chunks import Audio
from vqtrt.audio.convert import EncodedSource, encode_all
from vqtrt.audio.speakers import speaker_number
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.data.audio.decode import AudioPreprocessing
from vqtrt.data.audio.folder import AudioSource
from vqtrt.data.audio.mel import mel_spectrogram
from vqtrt.data.grid import check_png, spread
from vqtrt.data.rejects import reject_kinds
from vqtrt.errors import VqtrtError
from vqtrt.jobs.encode import EncodeOptions
from vqtrt.jobs.loop import Steps, ignore, run_steps
from vqtrt.metrics import CodeUsage
from vqtrt.system.names import brief

MEL_BANDS = 40
_MEL_SECONDS = 0.032
"""A window of the mel spectrograms; each moves on by a quarter."""
_PIECE = 1 << 17
_SHOWN = 3
_SHOWN_SECONDS = 3.0


class AudioMetrics:
    """Errors of reconstructions over a set of recordings."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._n_fft = 4 * max(4, round(_MEL_SECONDS * sample_rate / 4))
        self._samples = self._frames = 0
        self._power = self._error = 0.0
        self._distance = self._mel_error = 0.0
        self._mel_sum = np.zeros(MEL_BANDS)
        self._mel_squares = 0.0

    def update(self, original: Audio, made: Audio) -> None:
        """Add a recording or a piece of one: two arrays (T,). Raises `ValueError` otherwise."""
        if original.ndim != 1 or original.shape != made.shape:
            raise ValueError(f"two arrays (T,) are needed, not {original.shape}, {made.shape}")
        if not len(original):
            return
        x, y = original.astype(np.float64), made.astype(np.float64)
        self._samples += len(x)
        self._power += float(np.square(x).sum())
        self._error += float(np.square(x - y).sum())
        a, b = self._mel(x), self._mel(y)
        squares = np.square(a - b)
        self._frames += len(a)
        self._distance += float(np.sqrt(squares.mean(axis=1)).sum())
        self._mel_error += float(squares.sum())
        self._mel_sum += a.sum(axis=0)
        self._mel_squares += float(np.square(a).sum())

    def _mel(self, audio: NDArray[np.float64]) -> NDArray[np.float64]:
        """Decibels of full scale, (frames, bands)."""
        mel = mel_spectrogram(
            audio, self._rate, n_fft=self._n_fft, hop=self._n_fft // 4, n_mels=MEL_BANDS
        )
        return mel.astype(np.float64) * (10 / math.log(10))

    def result(self) -> dict[str, float | None]:
        """`log_mel_db`, `log_mel_nmse` and `snr_db` so far; None where undefined.

        - `log_mel_db`: root mean square over 40 mel bands of the difference of levels in dB, mean
          over frames.
        - `log_mel_nmse`: mean squared difference over the variance of the originals' levels, each
          band about its own mean: 1 is what one spectrum for all, the best of them, scores.
        - `snr_db`: power of the originals over that of the differences of samples, in dB.
        """
        variance = self._mel_squares - float(np.square(self._mel_sum).sum()) / max(1, self._frames)
        return {
            "log_mel_db": self._distance / self._frames if self._frames else None,
            "log_mel_nmse": self._mel_error / variance if variance > 1e-9 * self._frames else None,
            "snr_db": 10 * math.log10(self._power / self._error)
            if self._power and self._error
            else None,
        }

    @property
    def seconds(self) -> float:
        """Of audio so far."""
        return self._samples / self._rate


def evaluate(
    tokenizer: AudioTokenizer,
    source: AudioSource,
    *,
    speaker: str | None = None,
    grid: Path | None = None,
    **options: Unpack[EncodeOptions],
) -> dict[str, Any]:
    """Encode and decode every recording, in its own voice or that of `speaker`.

    Keys: those of `AudioMetrics`, of which `snr_db` is None for a WaveNet, whose samples are drawn;
    `perplexity`, `usage`, `codes_used` and `unigram_bits` of `CodeUsage`; `codes_per_second` and
    `bits_per_second` of audio, log2(K) bits a code; `clips`, `seconds`, `rejected`, and
    `rejected_kinds`, how many there are of each suffix and reason. `grid` names a
    PNG to write: waveforms and spectrograms of some originals, their reconstructions, and their
    conversions into the next speaker's voice. Raises `VqtrtError` before any work where it cannot
    be written, and for recordings without a voice that the model knows.
    """
    if grid is not None:
        check_png(grid)
    voices = _voices(source, tokenizer.speech.speakers, speaker)
    how = options.get("preprocessing") or tokenizer.preprocessing
    progress = options.get("progress", ignore)
    twice: EncodeOptions = {**options, "progress": lambda done, n: progress(done, 2 * n)}
    encoded = encode_all(tokenizer, source, **twice)
    codes, count = encoded.codes, len(encoded.items)
    lost = len(encoded.rejected)
    metrics = AudioMetrics(how.sample_rate)
    wanted = spread(count, _SHOWN) if grid is not None else set()
    shown: dict[int, _Shown] = {}
    numbers = [voices[item.label] for item in encoded.items]
    clips = [codes.clip(index) for index in range(count)]

    def steps() -> Steps:
        for done, (index, blocks) in enumerate(tokenizer.stream(clips, numbers), 1):
            with closing(_read(source, encoded, index, how)) as original:
                for first, (x, y) in enumerate(_pieces(original, blocks)):
                    metrics.update(x, y)
                    if index in wanted and not first:
                        most = round(_SHOWN_SECONDS * how.sample_rate)
                        shown[index] = _Shown(index, x[:most].copy(), y[:most].copy())
            yield count + 2 * lost + done

    run_steps(steps(), 2 * (count + lost), progress, first=count + 2 * lost)
    if grid is not None:
        _write_grid(grid, tokenizer, encoded, numbers, [shown[index] for index in sorted(shown)])
    usage = CodeUsage(tokenizer.codebook_size)
    usage.update(codes.codes)
    figures = metrics.result()
    if tokenizer.speech.decoder == "wavenet":
        figures["snr_db"] = None
    rate = how.sample_rate / tokenizer.stride
    return {
        **figures,
        **usage.result(),
        "codes_per_second": rate,
        "bits_per_second": rate * math.log2(tokenizer.codebook_size),
        "clips": count,
        "seconds": metrics.seconds,
        "rejected": lost,
        "rejected_kinds": reject_kinds(encoded.rejected),
    }


class _Shown(NamedTuple):
    """The beginning of a recording for the picture."""

    place: int
    original: Audio
    made: Audio


def _voices(source: AudioSource, known: Sequence[str], speaker: str | None) -> dict[int, int]:
    """A speaker of the model for each label of the source."""
    if speaker is not None:
        number = speaker_number(known, speaker)
        return dict.fromkeys(range(-1, len(source.classes)), number)
    if not known:
        return dict.fromkeys(range(-1, len(source.classes)), 0)
    voices = {i: known.index(name) for i, name in enumerate(source.classes) if name in known}
    for item in source.items():
        if item.label not in voices:
            own = "has no speaker"
            if item.label >= 0:
                own = f"is of {brief(source.classes[item.label])}, unknown to the model"
            raise VqtrtError(
                f"{brief(item.name)}: {own}; say where names tell it with --speaker-pattern, or "
                f"give a voice for all with --speaker: {', '.join(known)}"
            )
    return voices


def _read(
    source: AudioSource, encoded: EncodedSource, index: int, how: AudioPreprocessing
) -> Generator[Audio, None, None]:
    yield from source.blocks(encoded.items[index], how)


def _pieces(original: Iterable[Audio], made: Iterable[Audio]) -> Iterator[tuple[Audio, Audio]]:
    """Both cut at the same places; what is made goes on a little after the end."""
    made_pieces = _cut(made)
    for x in _cut(original):
        y = next(made_pieces, np.zeros(0, np.float32))[: len(x)]
        yield x, np.pad(y, (0, len(x) - len(y)))


def _cut(blocks: Iterable[Audio]) -> Iterator[Audio]:
    """Pieces of one length, the last aside."""
    held = np.zeros(0, np.float32)
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= _PIECE:
            yield held[:_PIECE]
            held = held[_PIECE:]
    if len(held):
        yield held


def _write_grid(
    path: Path,
    tokenizer: AudioTokenizer,
    encoded: EncodedSource,
    numbers: Sequence[int],
    shown: Sequence[_Shown],
) -> None:
    from vqtrt.data.audio.waveforms import clips_picture

    speakers, stride = tokenizer.speech.speakers, tokenizer.stride
    parts = [encoded.codes.clip(one.place)[: -(-len(one.original) // stride)] for one in shown]
    targets = [(numbers[one.place] + 1) % max(1, len(speakers)) for one in shown]
    converted: dict[int, Audio] = {}
    if len(speakers) > 1:
        for index, blocks in tokenizer.stream(parts, targets):
            converted[index] = np.concatenate(list(blocks))
    rows = []
    for row, (index, original, made) in enumerate(shown):
        panels = [("original", original), ("reconstruction", made)]
        if row in converted:
            panels.append((f"as {speakers[targets[row]]}", converted[row][: len(original)]))
        rows.append((encoded.items[index].name, panels))
    clips_picture(path, rows, tokenizer.preprocessing.sample_rate)
