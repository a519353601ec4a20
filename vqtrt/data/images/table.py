"""Images in Parquet files and in folders that `save_to_disk` wrote."""

from collections.abc import Iterator
from functools import cached_property

from vqtrt.data.images.decode import decode_stored
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.source import Images
from vqtrt.data.source import Item
from vqtrt.data.table import Table, TablePath
from vqtrt.errors import VqtrtError
from vqtrt.system.names import printable

_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp")
_LABELS = ("label", "labels", "class", "cls", "fine_label")
_MAX_CLASS = 1_000_000


class ImageTable:
    """The images of a table, in the order of its rows.

    The class is that of the column `label`, `labels`, `class`, `cls` or `fine_label`: a text, or a
    number, whose name the metadata of Hugging Face may tell.
    """

    def __init__(self, path: TablePath, column: str | None = None) -> None:
        self.table = Table(path, column, _COLUMNS)
        self._label = self.table.first_column(*_LABELS)
        if not self.table.count:
            raise VqtrtError(f"{printable(path)}: has no rows; check the path")

    @cached_property
    def _texts(self) -> bool:
        return any(isinstance(label, str) for label in self._labels())

    def _labels(self) -> Iterator[str | int | None]:
        if self._label is None:
            return iter([None] * self.table.count)
        return self.table.values(self._label)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; numbers where there are no names."""
        if self._label is None:
            return ()
        if self._texts:
            return tuple(sorted({str(label) for label in self._labels() if label is not None}))
        most = max((int(label) for label in self._labels() if label is not None), default=-1)
        if most >= _MAX_CLASS:
            raise VqtrtError(f"{printable(self.table.path)}: label {most} is no class number")
        names = self.table.features.get(self._label, {}).get("names")
        if isinstance(names, list) and len(names) > most:
            return tuple(map(str, names))
        return tuple(str(number) for number in range(most + 1))

    def items(self) -> Iterator[Item]:
        """All images, each by the path that its row tells, or `FILE[ROW]`."""
        places = {name: index for index, name in enumerate(self.classes)}
        named = enumerate(zip(self.table.names(), self._labels(), strict=True))
        for row, (name, label) in named:
            place = -1 if label is None else places[label] if isinstance(label, str) else label
            yield Item(name, max(-1, int(place)), self.table.cell(row, name))

    def read(self, item: Item, preprocessing: Preprocessing | None = None) -> Images:
        """The image as (H, W, 3) uint8; `ImageError` if it cannot be read."""
        return decode_stored(item.key, preprocessing)

    def stamp(self, item: Item) -> str:
        """The size of the table."""
        return self.table.stamp
