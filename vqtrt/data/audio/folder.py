"""Collections of recordings: a folder tree whose sub-folders are speakers, or a known corpus.

Items come in the order of their names, the same on every machine; nothing is read before it is
asked for. Speakers are known once the names were walked.
"""

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

from vqtrt.data.audio.decode import Audio, AudioPreprocessing, read_audio, read_blocks
from vqtrt.data.folder import FileTree, name_text
from vqtrt.data.selection import Selection, suffix_of
from vqtrt.data.source import Item, Stored, file_stamp
from vqtrt.data.suffixes import CONVERTIBLE_AUDIO, READ_AUDIO
from vqtrt.errors import VqtrtError
from vqtrt.system.files import open_file
from vqtrt.system.names import printable

_LIBRISPEECH = re.compile(
    r"(?:^|/)(?P<speaker>\d+)/(?P<chapter>\d+)/(?P=speaker)[-_](?P=chapter)[-_][\d_-]+\.\w+$"
)
"""SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE.flac; LibriTTS and MLS write it with `_`."""
_LJSPEECH = re.compile(r"(?:^|/)LJ\d{3}-\d{4}\.\w+$")
"""LJ001-0001.wav, all of one speaker."""
_MAX_TEXT = 1 << 20


class AudioSource(Protocol):
    """Recordings in a fixed order, the same on every machine and at every call."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the speakers, sorted; empty if none is known."""

    def items(self) -> Iterator[Item]:
        """All recordings in order; an item's label is its speaker's place, −1 for none."""

    def path(self, item: Item) -> Path | Stored:
        """Where a recording is."""

    def blocks(self, item: Item, preprocessing: AudioPreprocessing) -> Iterator[Audio]:
        """Its samples in blocks (n,), in flat memory; `AudioError` if it cannot be read."""

    def read(self, item: Item, preprocessing: AudioPreprocessing) -> Audio:
        """All its samples (T,); safe to call from several threads."""

    def text(self, item: Item) -> str | None:
        """What is said in it, where a transcript is at hand."""


class Speakers:
    """Who speaks in recordings, by their names: a mix-in of sources that have `paths`."""

    _above = ""
    """Folders above the recordings, which may be a speaker's."""

    def __init__(self, speaker_pattern: str | None) -> None:
        self._pattern = _compiled(speaker_pattern)

    @abstractmethod
    def paths(self) -> Iterator[str]:
        """Paths of all recordings."""

    def speaker(self, name: str) -> str | None:
        """Who speaks in the recording of a name, if it tells."""
        if self._pattern is not None:
            found = self._pattern.search(name)
            return found["speaker"] if found else None
        if found := _LIBRISPEECH.search(self._above + name):
            return found["speaker"]
        if _LJSPEECH.search(name):
            return "LJ"
        first, slash, _ = name.partition("/")
        return first if slash else None

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the speakers, sorted."""
        names = {self.speaker(name_text(path)) for path in self.paths()}
        return tuple(sorted(name for name in names if name))


class AudioFolder(FileTree, Speakers):
    """The recordings below `root`, or the one file that `root` is.

    A first-level sub-folder is a speaker; files directly in `root` have none. Of names as in
    LibriSpeech, LibriTTS or LJSpeech the speaker is known, whether `root` is the corpus, a part of
    it, or a folder above. `speaker_pattern`, a regular expression with a group `speaker`, looks
    into the items' names instead; what it does not find has no speaker. Hidden files and folders do
    not count; links are followed.

    Raises `VqtrtError` for a missing folder, one without recordings, or a pattern that is wrong.
    """

    def __init__(
        self,
        root: Path,
        speaker_pattern: str | None = None,
        selection: Selection | None = None,
    ) -> None:
        FileTree.__init__(self, root, selection, recording_kind)
        Speakers.__init__(self, speaker_pattern)
        if not self.root.exists():
            raise VqtrtError(f"{printable(root)}: no such file or folder; check the path")
        if self.selection and self.root.is_file():
            raise VqtrtError(
                f"{printable(root)}: is one recording, and --include and --exclude choose from a "
                "folder; leave them out"
            )
        if next(self.paths(), None) is None:
            hint = conversion_hint(self.passed_over)
            read = f"{', '.join(READ_AUDIO)} are read; check the path"
            raise self.none_left("recordings", hint or read)

    def paths(self) -> Iterator[str]:
        """Paths below the root that count."""
        if self.root.is_dir():
            yield from FileTree.paths(self)
        else:
            yield self.root.name

    @cached_property
    def _above(self) -> str:  # type: ignore[override]
        """The two folders that end in `root`: it may be a speaker's, or a chapter's."""
        if self.root.is_file():
            return ""
        return "".join(f"{name_text(part)}/" for part in self.root.resolve().parts[-2:])

    def items(self) -> Iterator[Item]:
        """All recordings in order; a name is the path below `root`, with `/`."""
        numbers = {name: index for index, name in enumerate(self.classes)}
        for path in self.paths():
            name = name_text(path)
            yield Item(name, numbers.get(self.speaker(name) or "", -1), path)

    def path(self, item: Item) -> Path:
        """Where a recording is."""
        return self.root if self.root.is_file() else self.root / str(item.key)

    def stamp(self, item: Item) -> str:
        """The size of a recording's file."""
        return file_stamp(self.path(item))

    def blocks(self, item: Item, preprocessing: AudioPreprocessing) -> Iterator[Audio]:
        """Samples in blocks (n,)."""
        return read_blocks(self.path(item), preprocessing)

    def read(self, item: Item, preprocessing: AudioPreprocessing) -> Audio:
        """All samples (T,)."""
        return read_audio(self.path(item), preprocessing)

    def text(self, item: Item) -> str | None:
        """A .txt of the same name beside the recording, where there is one."""
        return _read_text(self.path(item).with_suffix(".txt"))


class VCTK(AudioFolder):
    """The VCTK corpus in its own layout.

    0.92: `wav48_silence_trimmed/pNNN/pNNN_MMM_mic1.flac`, of whose two microphones the first is
    taken; older: `wav48/pNNN/pNNN_MMM.wav`. Transcripts are `txt/pNNN/pNNN_MMM.txt`. Names of
    items are relative to the folder of recordings.

    Raises `VqtrtError` if neither is there, or holds no recordings.
    """

    FOLDERS = ("wav48_silence_trimmed", "wav48")

    def __init__(self, root: Path, selection: Selection | None = None) -> None:
        self.corpus = Path(root)
        here = [name for name in self.FOLDERS if (self.corpus / name).is_dir()]
        if not here:
            raise VqtrtError(
                f"{printable(root)}: no {' or '.join(self.FOLDERS)} in it; check the path"
            )
        super().__init__(self.corpus / here[0], selection=selection)

    def paths(self) -> Iterator[str]:
        """Paths of the first microphone."""
        for path in super().paths():
            if "/" in path and not Path(path).stem.endswith("_mic2"):
                yield path

    def text(self, item: Item) -> str | None:
        """The transcript of an utterance, where the corpus has one."""
        speaker, _, file = item.name.rpartition("/")
        stem = file.rpartition(".")[0].removesuffix("_mic1")
        return _read_text(self.corpus / "txt" / speaker / f"{stem}.txt")


def conversion_hint(passed_over: Mapping[str, int]) -> str:
    """What would help of the files that were passed over, counted by kind; empty for nothing."""
    kinds = sorted(kind for kind in passed_over if kind in CONVERTIBLE_AUDIO)
    if not kinds:
        return ""
    return f"convert {', '.join(kinds)} to be read: ffmpeg -i NAME{kinds[0]} NAME.flac"


def recording_kind(name: str) -> str:
    """The suffix of a file that is no recording by its name; "" for a recording."""
    suffix = suffix_of(name)
    return "" if suffix in READ_AUDIO else suffix


def _compiled(pattern: str | None) -> "re.Pattern[str] | None":
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise VqtrtError(f"speaker pattern {pattern!r}: {error}") from None
    if "speaker" not in compiled.groupindex:
        raise VqtrtError(
            f"speaker pattern {pattern!r}: has no group (?P<speaker>…) that says who speaks"
        )
    return compiled


def _read_text(path: Path) -> str | None:
    try:
        with open_file(path) as file:
            return file.read(_MAX_TEXT).decode("utf-8", errors="replace").strip()
    except OSError:
        return None
