import numpy as np
import pytest

from vqtrt.audio.inputs import checked_audio, checked_lengths, rows_of
from vqtrt.data.audio.decode import AudioPreprocessing
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import ModelInfo, SpeechInfo

FACTS = ModelInfo(codebook_size=8, num_codebooks=1, code_dim=4, stride=16)
SPEECH = SpeechInfo(
    preprocessing=AudioPreprocessing(),
    decoder="conv",
    speakers=("a", "b"),
    context=1,
    decoder_context=1,
)
CLIPS = [np.arange(3), np.arange(5)]


def lengths(samples: list[int] | None, speakers: tuple[int, ...] = (0, 2)) -> list[int]:
    return checked_lengths(CLIPS, speakers, samples, FACTS, SPEECH)


def test_lengths_of_clips() -> None:
    assert lengths(None) == [48, 80]
    assert lengths([48, 0]) == [48, 0]


@pytest.mark.parametrize(
    ("samples", "what"),
    [
        ([49, 80], "clip 0: 49 samples of 48 in its codes"),
        ([1, -1], "clip 1: -1 samples of 80"),
        ([1], "2 clips, 2 speakers and 1 lengths"),
    ],
)
def test_lengths_that_the_codes_do_not_have(samples: list[int], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        lengths(samples)


def test_speakers_and_codes() -> None:
    with pytest.raises(ValueError, match="2 clips, 1 speakers"):
        lengths(None, (0,))
    with pytest.raises(VqtrtError, match="clip 1: speaker 3, but the model has 2"):
        lengths(None, (0, 3))
    for codes, what in ((np.array([8]), "holds 8 at 0"), (np.zeros(2), r"not float64 \(2,\)")):
        with pytest.raises(VqtrtError, match=what):
            checked_lengths([codes], [0], None, FACTS, SPEECH)


def test_audio_is_float32() -> None:
    assert checked_audio(np.zeros(3)).dtype == np.float32
    with pytest.raises(VqtrtError, match="sample 1 is nan"):
        checked_audio(np.array([0, np.nan]))
    with pytest.raises(VqtrtError, match="time comes first"):
        rows_of(np.zeros((3, 2), np.float32))
