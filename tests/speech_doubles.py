"""Stand-ins for models and sources of speech, in whole numbers, so that equal means equal."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from doubles import EngineDouble

from vqtrt.data.audio.decode import AudioPreprocessing
from vqtrt.data.source import Item
from vqtrt.errors import AudioError
from vqtrt.formats.bundle import ModelInfo, SpeechInfo

STRIDE, RATE = 4, 8000

WAVENET = {
    "decoder": {
        "kind": "wavenet",
        "layers": 4,
        "cycles": 2,
        "channels": 8,
        "head": 16,
        "hop": 16,
        "unroll": 8,
        "frame_channels": 8,
    }
}
"""Settings of a tiny model with a WaveNet decoder, in place of the conv decoder of the fixtures."""


class FakeSpeechEngine(EngineDouble):
    """A code is a hash of the samples of `context` codes on either side, zeros beyond the ends.

    A sample is the same of the codes around it, and of its speaker. `before` is called with the
    name and the array of each run of a graph.
    """

    def __init__(
        self,
        codebook_size: int = 200,
        context: int = 3,
        decoder_context: int = 2,
        speakers: tuple[str, ...] = ("ann", "bob", "cy"),
        before: Callable[[str, np.ndarray], None] = lambda name, array: None,
    ) -> None:
        self.info = ModelInfo(
            codebook_size=codebook_size, num_codebooks=1, code_dim=1, stride=STRIDE
        )
        self.speech = SpeechInfo(
            preprocessing=AudioPreprocessing(sample_rate=RATE),
            decoder="conv",
            speakers=speakers,
            context=context,
            decoder_context=decoder_context,
        )
        self.before = before
        rng = np.random.default_rng(7)
        self._context, self._decoder_context = context, decoder_context
        self._weights = rng.integers(1, 1000, (2 * context + 1) * STRIDE)
        self._decoder_weights = rng.integers(1, 1000, (STRIDE, 2 * decoder_context + 1))

    def open(self, graph: str) -> Callable[..., np.ndarray]:
        assert graph in ("encoder", "decoder")
        made: Callable[..., np.ndarray] = self.encoder if graph == "encoder" else self.decoder

        def run(*arrays: np.ndarray) -> np.ndarray:
            assert all(
                array.dtype == (np.float32, np.int32)[graph == "decoder"] for array in arrays
            )
            self.before(graph, arrays[0])
            return made(*arrays)

        return run

    def encoder(self, audio: np.ndarray) -> np.ndarray:
        assert (audio.dtype, audio.ndim, audio.shape[1] % STRIDE) == (np.float32, 2, 0)
        zeros = self._context * STRIDE
        samples = np.pad(np.rint(audio * 32767).astype(np.int64), ((0, 0), (zeros, zeros)))
        windows = np.lib.stride_tricks.sliding_window_view(samples, len(self._weights), axis=1)
        sums = windows[:, ::STRIDE] @ self._weights
        return (sums // 7 % self.info.codebook_size).astype(np.int32)

    def decoder(self, codes: np.ndarray, speakers: np.ndarray) -> np.ndarray:
        nothing, reach = self.info.codebook_size, self._decoder_context
        assert 0 <= codes.min() <= codes.max() <= nothing
        assert self.speech is not None
        assert 0 <= speakers.min() <= speakers.max() <= len(self.speech.speakers)
        values = np.where(codes == nothing, 0, codes + 1).astype(np.int64)
        values = np.pad(values, ((0, 0), (reach, reach)))
        windows = np.lib.stride_tricks.sliding_window_view(values, 2 * reach + 1, axis=1)
        sums = windows @ self._decoder_weights.T + 1000 * speakers[:, None, None]
        levels = sums.reshape(len(codes), -1) % 65535 - 32767
        return (levels / 32767).astype(np.float32)


def noise(seed: int, samples: int) -> np.ndarray:
    """(samples,) on the grid of 16 bits."""
    levels = np.random.default_rng(seed).integers(-32767, 32768, samples)
    return (levels / 32767).astype(np.float32)


class FakeSpeech:
    """Recordings of noise made by their index; those in `bad` cannot be read to their end.

    `before` is called with each item and each block that is read of it.
    """

    def __init__(
        self,
        lengths: list[int],
        bad=(),
        before: Callable[[Item, int], None] = lambda item, block: None,
        classes: tuple[str, ...] = ("bob", "zoe"),
        block: int = 50,
    ) -> None:
        self.lengths, self.bad, self.before = lengths, set(bad), before
        self.classes, self.block = classes, block

    def items(self) -> Iterator[Item]:
        index = 0
        while index < len(self.lengths):
            yield Item(f"{index:06}.wav", index % (len(self.classes) + 1) - 1, index)
            index += 1

    def blocks(self, item: Item, preprocessing: AudioPreprocessing) -> Iterator[np.ndarray]:
        audio = noise(item.key, self.lengths[item.key])
        if preprocessing.level_db is not None:
            audio = audio / np.float32(2)
        for number, start in enumerate(range(0, len(audio), self.block)):
            self.before(item, number)
            if item.key in self.bad and start + self.block >= len(audio):
                raise AudioError(f"{item.name}: not a recording that can be read (bad); remove it")
            yield audio[start : start + self.block]

    def read(self, item: Item, preprocessing: AudioPreprocessing) -> np.ndarray:
        return np.concatenate(list(self.blocks(item, preprocessing)))

    def path(self, item: Item) -> Path:
        return Path(item.name)

    def text(self, item: Item) -> None:
        return None
