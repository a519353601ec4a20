"""A tar of images, in WebDataset's layout or of folders."""

from collections.abc import Iterator
from functools import cached_property

from vqtrt.data.folder import name_text
from vqtrt.data.images.decode import decode_stored
from vqtrt.data.images.folder import image_kind
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.source import Images
from vqtrt.data.selection import Selection
from vqtrt.data.source import Item
from vqtrt.data.tar import TarTree, sample_key
from vqtrt.data.tar_index import Archive, tar_index
from vqtrt.errors import VqtrtError
from vqtrt.system.names import printable

_MAX_CLASS = 1_000_000


class ImageTar(TarTree):
    """The images of a tar in its order.

    The class of an image is the number in the .cls file of its sample; if the tar has none of
    these, it is the first-level folder, as in a folder of images.

    Raises `VqtrtError` when made for a tar that is damaged or holds no image.
    """

    def __init__(self, root: Archive, selection: Selection | None = None) -> None:
        super().__init__(root, selection, image_kind)
        if next(self.paths(), None) is None:
            raise self.none_left("images", "check the path")

    @cached_property
    def _numbered(self) -> bool:
        return any(name.endswith(".cls") for name in tar_index(self.root).members)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes: numbers, or the first-level folders, sorted."""
        if self._numbered:
            numbers = [self._number(name) for name in self.paths()]
            return tuple(str(number) for number in range(max(numbers, default=-1) + 1))
        return tuple(sorted({name_text(n.partition("/")[0]) for n in self.paths() if "/" in n}))

    def _number(self, name: str) -> int:
        text = self.sibling(name, ".cls")
        if text is None:
            return -1
        if not text.strip().isdigit() or int(text) >= _MAX_CLASS:
            raise VqtrtError(
                f"{printable(self.root)}: {sample_key(name)}.cls holds no class number below "
                f"{_MAX_CLASS:,}"
            )
        return int(text)

    def items(self) -> Iterator[Item]:
        """All images in the order of the tar."""
        places = {name: index for index, name in enumerate(self.classes)}
        for path in self.paths():
            name = name_text(path)
            if self._numbered:
                label = self._number(path)
            else:
                label = places[name.partition("/")[0]] if "/" in path else -1
            yield Item(name, label, self.member(path))

    def read(self, item: Item, preprocessing: Preprocessing | None = None) -> Images:
        """The image as (H, W, 3) uint8; `ImageError` if it cannot be read."""
        return decode_stored(item.key, preprocessing)
