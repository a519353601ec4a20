"""Recordings for a model that was trained: who speaks is found as in what it was trained on."""

from pathlib import Path

from vqtrt.config.images import load_speech_config
from vqtrt.config.location import ModelLocation
from vqtrt.data.audio.folder import AudioSource
from vqtrt.data.audio.open import open_speech
from vqtrt.data.selection import Selection


def open_recordings(
    model: ModelLocation,
    data: str,
    speaker_pattern: str | None = None,
    selection: Selection | None = None,
    indexes: Path | None = None,
) -> AudioSource:
    """As `open_speech`, with the run's own `data.speaker_pattern` where none is given.

    Where that finds nobody, sub-folders are the speakers, as they are for a bundle alone, which
    does not know the pattern.
    """
    if speaker_pattern is None and model.run is not None:
        own = load_speech_config(model.run / "config.yaml").data.speaker_pattern
        if own is not None:
            source = open_speech(data, own, selection, indexes)
            if source.classes:
                return source
    return open_speech(data, speaker_pattern, selection, indexes)
