"""What a model of speech makes of recordings in training: a picture, and wavs beside it.

The live model goes through the code that decodes with a bundle: what is heard in training is what
`vqtrt decode` gives of the exported run.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from vqtrt.audio.chunks import Audio
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.config.audio import SpeechConfig
from vqtrt.data.audio.decode import write_wav
from vqtrt.data.audio.waveforms import clips_picture
from vqtrt.models.audio import SpeechVQVAE
from vqtrt.models.audio_graphs import speech_graph
from vqtrt.models.info import speech_info
from vqtrt.training.live_engine import LiveEngine

SECONDS = {"conv": 3.0, "wavenet": 0.5}
"""Of each recording, at most: a WaveNet draws sample by sample, and evaluations are to be short."""


class Shown(NamedTuple):
    """A recording to show."""

    name: str
    audio: Audio
    speaker: int
    """As a number of the model; the number of speakers stands for none."""


def show_clips(
    model: SpeechVQVAE,
    config: SpeechConfig,
    clips: Sequence[Shown],
    picture: Path,
    device: torch.device,
) -> None:
    """Write each recording, its reconstruction, and its conversion into the next speaker's voice.

    As waveforms and mel spectrograms into `picture`, a PNG, and as wavs into the folder of the same
    name without its ending. Of long recordings only the loudest part is taken.
    """
    engine = LiveEngine(partial(speech_graph, model), device)
    engine.info, engine.speech = speech_info(model, config)
    tokenizer = AudioTokenizer(engine, batch_size=2 * len(clips))
    rate, speakers = tokenizer.preprocessing.sample_rate, tokenizer.speech.speakers
    most = round(SECONDS[tokenizer.speech.decoder] * rate)
    originals = [loudest(clip.audio, most) for clip in clips]
    voices = [clip.speaker for clip in clips]
    others = [(voice + 1) % len(speakers) for voice in voices] if len(speakers) > 1 else []
    # Reconstructions and conversions in one batch: a WaveNet's step costs the same for each.
    codes = tokenizer.encode(originals)
    decoded = tokenizer.decode(codes + codes[: len(others)], voices + others)
    rows = []
    for row, (clip, original) in enumerate(zip(clips, originals, strict=True)):
        made = {"original": original, "reconstruction": decoded[row][: len(original)]}
        captions = ["original", "reconstruction"]
        if others:
            made["conversion"] = decoded[len(clips) + row][: len(original)]
            captions.append(f"as {speakers[others[row]]}")
        rows.append((clip.name, list(zip(captions, made.values(), strict=True))))
        for name, audio in made.items():
            write_wav(picture.with_suffix("") / f"{row}-{name}.wav", audio, rate)
    clips_picture(picture, rows, rate)


def loudest(audio: Audio, most: int) -> Audio:
    """The `most` consecutive samples of a recording (T,) that have the most power, or all."""
    if len(audio) <= most:
        return audio
    sums = np.concatenate([[0.0], np.square(audio, dtype=np.float64).cumsum()])
    start = int(np.argmax(sums[most:] - sums[:-most]))
    return audio[start : start + most]
