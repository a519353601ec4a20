"""Voice conversion: recordings to codes and back in another voice, without a codes file between.

Codes are small, an hour of speech a megabyte at most: all recordings are encoded first, so that the
decoder can take those of like length together. Audio lies in memory as for encode and decode.
"""

from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np

from vqtrt.audio.decode import decode_codes
from vqtrt.audio.encode import Encoded, encode_each
from vqtrt.audio.speakers import speaker_number
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.data.audio.decode import write_stream
from vqtrt.data.audio.folder import AudioFolder, AudioSource
from vqtrt.data.source import Item
from vqtrt.errors import VqtrtError
from vqtrt.formats.audio_codes import ClipCodes
from vqtrt.jobs.encode import EncodeOptions, require_outside
from vqtrt.jobs.loop import Note, Resumed, ignore, nothing_read
from vqtrt.system.atomic import check_file, check_folder


class EncodedSource(NamedTuple):
    """All recordings of a source as codes, in memory."""

    items: tuple[Item, ...]
    """Those that could be read."""
    codes: ClipCodes
    """Clip after clip, without a header; `path` is the data, as the user gave it."""
    rejected: tuple[tuple[str, str], ...]
    """Names of the others, each with the reason."""


class Converted(NamedTuple):
    """What a conversion wrote."""

    out: Path
    recordings: int
    rejected: tuple[tuple[str, str], ...]
    """Names of recordings that could not be read, each with the reason."""


def encode_all(
    tokenizer: AudioTokenizer, source: AudioSource, **options: Unpack[EncodeOptions]
) -> EncodedSource:
    """The codes of all recordings of a source, in memory.

    Raises `AudioError` for the first that cannot be read; with `on_error="skip"` it is rejected
    instead. Raises `VqtrtError` where none is left.
    """
    taken = list[Encoded]()
    rejected = encode_each(tokenizer, source, taken.append, options)
    root = options["root"]
    if not taken:
        raise nothing_read(root, len(rejected), "a recording")
    codes = ClipCodes(
        path=Path(root),
        codes=np.concatenate([clip.codes for clip in taken]),
        offsets=tuple(accumulate((len(clip.codes) for clip in taken), initial=0)),
        files=tuple(clip.item.name for clip in taken),
        samples=tuple(clip.samples for clip in taken),
    )
    return EncodedSource(tuple(clip.item for clip in taken), codes, rejected)


def convert_source(
    tokenizer: AudioTokenizer,
    source: AudioSource,
    out: Path,
    *,
    speaker: str,
    note: Note = lambda text: None,
    resumed: Resumed = lambda count: None,
    **options: Unpack[EncodeOptions],
) -> Converted:
    """Write every recording of a source in the voice of `speaker`, 16 bit, as long as it was.

    A single recording becomes the wav `out`; else `out` is a folder, as for `decode_codes`.
    `resume` continues with the wavs that an interrupted job has made; recordings are encoded again,
    which tells whether they are the same. `progress` counts each recording twice, encoded and
    decoded. Raises as `encode_all`, and before any work for an unknown speaker or a place that
    cannot be written.
    """
    root, progress = options["root"], options.get("progress", ignore)
    number = speaker_number(tokenizer.speech.speakers, speaker)
    single = isinstance(source, AudioFolder) and source.root.is_file()
    if single:
        _check_file(out, Path(root))
    elif out.is_file():
        raise VqtrtError(f"{out}: is a file; several recordings need a folder: name one with --out")
    else:
        check_folder(out)
        require_outside(out / "x", source)
    twice: EncodeOptions = {**options, "progress": lambda done, n: progress(done, 2 * n)}
    encoded = encode_all(tokenizer, source, **twice)
    count, lost = len(encoded.items), len(encoded.rejected)
    if single:
        _write_one(tokenizer, encoded.codes, number, out)
    else:
        decode_codes(
            tokenizer,
            encoded.codes,
            out,
            speaker=speaker,
            note=note,
            resume=options.get("resume", False),
            resumed=resumed,
            progress=lambda done, total: progress(count + 2 * lost + done, 2 * (count + lost)),
        )
    progress(2 * (count + lost), 2 * (count + lost))
    return Converted(out, count, encoded.rejected)


def _check_file(out: Path, root: Path) -> None:
    if out.is_dir() or out.suffix.lower() != ".wav":
        raise VqtrtError(f"{out}: one recording becomes one file; --out must end in .wav")
    check_file(out)
    if out.exists() and out.samefile(root):
        raise VqtrtError(f"{out}: is the recording itself; give --out another name")


def _write_one(tokenizer: AudioTokenizer, codes: ClipCodes, speaker: int, out: Path) -> None:
    rate = tokenizer.preprocessing.sample_rate
    for _, blocks in tokenizer.stream([codes.clip(0)], [speaker]):
        write_stream(out, blocks, codes.samples[0], rate)
