"""A folder of phone alignments, found by the names of the recordings they belong to."""

import re
from pathlib import Path, PurePosixPath

from vqtrt.data.audio.textgrid import Interval, read_intervals
from vqtrt.errors import AudioError, VqtrtError
from vqtrt.system.names import printable

SLACK_SECONDS = 0.1
"""How much sooner or later than its audio an alignment may end."""


class Alignments:
    """The TextGrids anywhere below `root`, and their tier of this name.

    That of a recording has the same stem, or the same without the microphone that VCTK names
    (`p303/p303_001_mic1.flac` has `p303/p303_001.TextGrid`). Where several have, the one in a
    folder of the same name counts. `tier` has the phones: a name or a pattern (`read_intervals`).

    Raises `VqtrtError` when made where `root` is no folder, or holds none.
    """

    def __init__(self, root: Path, tier: str = "phones") -> None:
        self.root, self.tier = root, tier
        if not root.is_dir():
            raise VqtrtError(f"{printable(root)}: no such folder; give that of the TextGrids")
        self._paths: dict[str, list[Path]] = {}
        for path in sorted(root.rglob("*")):
            if path.suffix.lower() == ".textgrid":
                self._paths.setdefault(path.stem, []).append(path)
        if not self._paths:
            raise VqtrtError(f"{printable(root)}: holds no .TextGrid files; check the path")

    def find(self, name: str) -> Path:
        """The TextGrid of the recording `name`; raises `AudioError` if there is no one."""
        recording = PurePosixPath(name)
        plain = re.sub(r"_mic\d+$", "", recording.stem)
        for stem in dict.fromkeys((recording.stem, plain)):
            found = self._paths.get(stem, [])
            beside = [path for path in found if path.parent.name == recording.parent.name]
            if len(found) == 1 or len(beside) == 1:
                return (beside or found)[0]
            if found:
                raise AudioError(
                    f"{name}: {len(found)} alignments are named {found[0].name} below "
                    f"{printable(self.root)}; leave one, or put each in a folder named as its "
                    "recording's"
                )
        raise AudioError(
            f"{name}: no {plain}.TextGrid below {printable(self.root)}; align it, or leave it out"
        )

    def read(self, name: str, seconds: float) -> list[Interval]:
        """The intervals of the recording `name`, which lasts `seconds`.

        Raises `AudioError` if it has no alignment, or one that does not fit.
        """
        path = self.find(name)
        intervals = read_intervals(path, self.tier)
        if not intervals:
            raise AudioError(f"{printable(path)}: has no intervals; align {name} again")
        end = intervals[-1][1]
        if abs(end - seconds) > SLACK_SECONDS:
            raise AudioError(
                f"{printable(path)}: ends at {end:.2f} s, but {name} lasts {seconds:.2f} s; it "
                f"does "
                "not belong to this recording, or has to be aligned again"
            )
        return intervals
