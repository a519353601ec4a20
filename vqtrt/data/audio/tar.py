"""A tar of recordings, in WebDataset's layout or of folders."""

from collections.abc import Iterator

from vqtrt.data.audio.decode import Audio, AudioPreprocessing, read_audio, read_blocks
from vqtrt.data.audio.folder import Speakers, conversion_hint, recording_kind
from vqtrt.data.folder import name_text
from vqtrt.data.selection import Selection
from vqtrt.data.source import Item
from vqtrt.data.suffixes import READ_AUDIO
from vqtrt.data.tar import TarTree
from vqtrt.data.tar_index import Archive, Member


class AudioTar(TarTree, Speakers):
    """The recordings of a tar in its order; speakers are found as in a folder.

    Raises `VqtrtError` when made for a tar that is damaged or holds no recording.
    """

    def __init__(
        self,
        root: Archive,
        speaker_pattern: str | None = None,
        selection: Selection | None = None,
    ) -> None:
        TarTree.__init__(self, root, selection, recording_kind)
        Speakers.__init__(self, speaker_pattern)
        if next(self.paths(), None) is None:
            hint = conversion_hint(self.passed_over)
            read = f"{', '.join(READ_AUDIO)} are read; check the path"
            raise self.none_left("recordings", hint or read)

    def items(self) -> Iterator[Item]:
        """All recordings in the order of the tar."""
        numbers = {name: index for index, name in enumerate(self.classes)}
        for path in self.paths():
            name = name_text(path)
            yield Item(name, numbers.get(self.speaker(name) or "", -1), self.member(path))

    def path(self, item: Item) -> Member:
        """Where a recording is."""
        member: Member = item.key
        return member

    def blocks(self, item: Item, preprocessing: AudioPreprocessing) -> Iterator[Audio]:
        """Samples in blocks (n,)."""
        return read_blocks(self.path(item), preprocessing)

    def read(self, item: Item, preprocessing: AudioPreprocessing) -> Audio:
        """All samples (T,)."""
        return read_audio(self.path(item), preprocessing)

    def text(self, item: Item) -> str | None:
        """The .txt of a recording's sample, if there is one."""
        data = self.sibling(self.path(item).name, ".txt")
        return None if data is None else data.decode("utf-8", errors="replace").strip()
