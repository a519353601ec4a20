"""Recordings in Parquet files and in folders that `save_to_disk` wrote."""

from collections.abc import Iterator
from functools import cached_property

from vqtrt.data.audio.decode import Audio, AudioPreprocessing, read_audio, read_blocks
from vqtrt.data.audio.folder import Speakers
from vqtrt.data.source import Item
from vqtrt.data.table import Cell, Table, TablePath
from vqtrt.errors import VqtrtError
from vqtrt.system.names import printable

_COLUMNS = ("audio", "wav", "flac", "mp3", "speech")
_SPEAKERS = ("speaker", "speaker_id", "client_id")
_TEXTS = ("text", "sentence", "transcription", "normalized_text")


class AudioTable(Speakers):
    """The recordings of a table, in the order of its rows.

    The column `speaker`, `speaker_id` or `client_id` tells who speaks; if there is none, the paths
    of the rows do, as in a folder.
    """

    def __init__(
        self, path: TablePath, speaker_pattern: str | None = None, column: str | None = None
    ) -> None:
        super().__init__(speaker_pattern)
        self.table = Table(path, column, _COLUMNS)
        self._by = None if speaker_pattern else self.table.first_column(*_SPEAKERS)
        self._said = self.table.first_column(*_TEXTS)
        if not self.table.count:
            raise VqtrtError(f"{printable(path)}: has no rows; check the path")

    def paths(self) -> Iterator[str]:
        """The path that each row tells, or the table's name with the row's number."""
        return self.table.names()

    def _voices(self) -> Iterator[str | None]:
        if self._by is not None:
            return (None if who is None else str(who) for who in self.table.values(self._by))
        return map(self.speaker, self.paths())

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the speakers, sorted."""
        return tuple(sorted({who for who in self._voices() if who}))

    def items(self) -> Iterator[Item]:
        """All recordings."""
        numbers = {name: index for index, name in enumerate(self.classes)}
        for row, (name, who) in enumerate(zip(self.paths(), self._voices(), strict=True)):
            yield Item(name, numbers.get(who or "", -1), self.table.cell(row, name))

    def path(self, item: Item) -> Cell:
        """Where a recording is."""
        cell: Cell = item.key
        return cell

    def stamp(self, item: Item) -> str:
        """The size of the table."""
        return self.table.stamp

    def blocks(self, item: Item, preprocessing: AudioPreprocessing) -> Iterator[Audio]:
        """Samples in blocks (n,)."""
        return read_blocks(self.path(item), preprocessing)

    def read(self, item: Item, preprocessing: AudioPreprocessing) -> Audio:
        """All samples (T,)."""
        return read_audio(self.path(item), preprocessing)

    @cached_property
    def _texts(self) -> list[str | None]:
        return [] if self._said is None else list(self.table.values(self._said))

    def text(self, item: Item) -> str | None:
        """The text of a row, if the table has a column of texts."""
        return self._texts[self.path(item).row] if self._texts else None
