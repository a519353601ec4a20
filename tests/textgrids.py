"""TextGrids as Praat writes them."""

from collections.abc import Sequence
from pathlib import Path


def write_textgrid(
    path: Path, intervals: Sequence[tuple[float, float, str]], tier: str = "phones"
) -> None:
    """Write intervals (start, end, text) as one tier, in Praat's long format."""
    end = intervals[-1][1] if intervals else 1.0
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end}",
        "tiers? <exists>",
        "size = 1",
        "item []:",
        "    item [1]:",
        '        class = "IntervalTier"',
        f'        name = "{tier}"',
        "        xmin = 0",
        f"        xmax = {end}",
        f"        intervals: size = {len(intervals)}",
    ]
    for i, (start, stop, text) in enumerate(intervals, 1):
        lines += [
            f"        intervals [{i}]:",
            f"            xmin = {start}",
            f"            xmax = {stop}",
            f'            text = "{text}"',
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
