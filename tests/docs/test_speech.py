from pathlib import Path

import numpy as np
import pytest
from textgrids import write_textgrid

from vqtrt.data.audio.decode import write_wav


def write_digits(recordings: Path, alignments: Path) -> None:
    """Tones of two speakers, named as FSDD names its recordings, and what is said when."""
    rng = np.random.default_rng(0)
    for number in range(24):
        name, samples = f"{number // 2}_{('george', 'jackson')[number % 2]}_0", 1600 + 40 * number
        tone = np.sin(np.arange(samples) * rng.uniform(0.1, 0.3) * (1 + number % 2))
        write_wav(recordings / f"{name}.wav", 0.3 * tone.astype(np.float32), 8000)
        seconds = samples / 8000
        parts = [(0, 0.1, "AH0"), (0.1, seconds, ("N", "sil")[number % 3 == 0])]
        write_textgrid(alignments / f"{name}.TextGrid", parts)


@pytest.mark.slow
def test_what_the_page_shows_runs(run_page):
    write_digits(Path("recordings"), Path("textgrids"))
    run_page("speech.md")
