"""Tars as sources: an index of all headers, then each member read by itself.

Members of one sample share the name up to the first dot of its last part, as in WebDataset's layout
(`0001.jpg`, `0001.cls`), and need not lie next to each other.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from vqtrt.data.folder import Tree
from vqtrt.data.selection import Selection, add_kind
from vqtrt.data.source import Item
from vqtrt.data.tar_index import Archive, Member, tar_index

_MAX_TEXT = 1 << 20
"""Bytes of a label or a transcript."""


class TarTree(Tree):
    """The files of a tar that are items, in its order; `own` is as for `Tree`."""

    def __init__(
        self, root: Archive, selection: Selection | None, own: Callable[[str], str]
    ) -> None:
        super().__init__(str(root), selection, own)
        self.root = root
        self._parents: dict[str, str] = {"": ""}

    def paths(self) -> Iterator[str]:
        """Names of the items."""
        counts = Counter[str]()
        for name in tar_index(self.root).members:
            if kind := self._kind_of(name):
                add_kind(counts, kind)
            else:
                yield name
        self._passed_over = counts

    def member(self, name: str) -> Member:
        """Where a file is; raises `KeyError` for one that is not there."""
        return tar_index(self.root).members[name]

    def stamp(self, item: Item) -> str:
        """Where an item lies, and all headers of the tar."""
        member: Member = item.key
        return f"{tar_index(self.root).headers_sha256} {member.offset} {member.size}"

    def sibling(self, name: str, ending: str) -> bytes | None:
        """The bytes of the file with another ending in the sample that a file is of."""
        other = tar_index(self.root).members.get(f"{sample_key(name)}{ending}")
        return other.read() if other and other.size <= _MAX_TEXT else None

    def _kind_of(self, name: str) -> str:
        folder = name.rpartition("/")[0]
        return self._folder_kind(folder) or self._judge(name, False)

    def _folder_kind(self, folder: str) -> str:
        if folder not in self._parents:
            above = self._folder_kind(folder.rpartition("/")[0])
            self._parents[folder] = above or self._judge(folder, True)
        return self._parents[folder]


def sample_key(name: str) -> str:
    """The name up to the first dot of its last part: what files of one sample share."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"
