from pathlib import Path

import numpy as np
import pytest
from speech_doubles import RATE, STRIDE, FakeSpeech, FakeSpeechEngine
from textgrids import write_textgrid

from vqtrt.audio import chunks
from vqtrt.audio.probe import Split, Utterance, probe
from vqtrt.audio.probe_corpus import probe_source
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.data.source import Item
from vqtrt.errors import AudioError, VqtrtError

PHONES = ("a", "b", "k", "sil", "tS")
K = 199
LEVELS = np.array([0.1, 0.23, 0.41, 0.6, 0.87])


class Spoken(FakeSpeech):
    """Recordings in which each phone is a value of its own, held for some codes."""

    def __init__(self, count: int = 24, bad=(), long: int = 30) -> None:
        rng = np.random.default_rng(0)
        self.phones = [rng.integers(0, len(PHONES), rng.integers(2, long)) for _ in range(count)]
        super().__init__([4 * STRIDE * len(phones) for phones in self.phones], bad)

    def items(self):
        for item in super().items():
            yield Item(f"p{item.label}/p{item.label}_{item.key:03}_mic1.flac", item.label, item.key)

    def blocks(self, item, preprocessing):
        audio = np.repeat(LEVELS[self.phones[item.key]], 4 * STRIDE).astype(np.float32)
        if item.key in self.bad:
            raise AudioError(f"{item.name}: cannot be read")
        yield from (audio[start : start + 50] for start in range(0, len(audio), 50))

    def align(self, root: Path) -> Path:
        """Write the alignments."""
        for item in self.items():
            write(root / f"p{item.label}_{item.key:03}.TextGrid", self.phones[item.key])
        return root


def write(path: Path, phones: np.ndarray) -> None:
    seconds = 4 * STRIDE / RATE
    write_textgrid(
        path, [(i * seconds, (i + 1) * seconds, PHONES[phone]) for i, phone in enumerate(phones)]
    )


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_SAMPLES", 30 * STRIDE)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "TextGrid"
    folder.mkdir()
    return folder


def run(source, root, *, batch_size=2, context=0, **options):
    tokenizer = AudioTokenizer(FakeSpeechEngine(K, context), batch_size=batch_size)
    return probe_source(tokenizer, source, root, root="data", workers=2, **options)


def test_codes_that_follow_phones_are_found_out(root):
    source = Spoken()
    found, rejected = run(source, source.align(root))
    assert rejected == ()
    assert found.phones == PHONES
    assert found.scores.accuracy == 1
    assert found.scores.most_frequent < 0.5
    assert found.scores.shuffled < 0.5
    assert (found.counts > 0).sum() == len(PHONES)
    assert sum(found.codes) == 4 * sum(len(phones) for phones in source.phones)
    assert found.unlabelled == 0


def test_it_is_the_probe_of_the_codes_whole(root):
    source = Spoken()
    found = run(source, source.align(root), context=3, split=Split(seed=3)).probe
    tokenizer = AudioTokenizer(FakeSpeechEngine(K, 3))
    utterances = []
    for item in source.items():
        codes = tokenizer.encode(source.read(item, tokenizer.preprocessing))
        phones = tuple(PHONES[i] for i in source.phones[item.key].repeat(4))
        utterances.append(Utterance(item.name, item.label, codes, phones))
    expected = probe(utterances, K, Split(seed=3))
    np.testing.assert_array_equal(found.counts, expected.counts)
    assert found.figures() == expected.figures()
    assert found.scores.accuracy < 1


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_the_batch_changes_nothing(root, batch_size):
    source = Spoken()
    a, b = (run(source, source.align(root), context=2, batch_size=n).probe for n in (2, batch_size))
    assert a.figures() == b.figures()


def test_progress_counts_recordings(root):
    source, seen = Spoken(), []
    run(source, source.align(root), progress=lambda *call: seen.append(call))
    assert seen == [(done, 24) for done in range(25)]


def test_what_cannot_be_used_is_skipped_on_request(root):
    source = Spoken(bad=[5])
    source.align(root)
    names = [item.name for item in source.items()]
    grids = [root / name.split("/")[1].replace("_mic1.flac", ".TextGrid") for name in names]
    grids[2].unlink()
    write(grids[9], np.zeros(300, int))
    found, rejected = run(source, root, on_error="skip")
    assert [name for name, _ in rejected] == [names[2], names[5], names[9]]
    assert "no p1_002.TextGrid" in rejected[0][1]
    assert "cannot be read" in rejected[1][1]
    assert "ends at" in rejected[2][1]
    assert sum(found.utterances) == 21


def test_what_cannot_be_used_stops_the_job(root):
    source = Spoken()
    source.align(root)
    (root / "p1_002.TextGrid").unlink()
    with pytest.raises(AudioError, match=r"no p1_002\.TextGrid"):
        run(source, root)


def test_nothing_to_split_is_said_before_anything_is_read(root):
    source = Spoken(1, bad=[0])
    with pytest.raises(VqtrtError, match="the probe needs some"):
        run(source, source.align(root))


def test_a_skipped_corpus_has_nothing_to_probe(root):
    source = Spoken(bad=range(24))
    with pytest.raises(VqtrtError, match="the probe needs some"):
        run(source, source.align(root), on_error="skip")


def test_tiers_that_carry_the_speakers_name(root: Path) -> None:
    source = Spoken()
    expected = run(source, source.align(root)).probe.figures()
    for number, path in enumerate(root.iterdir()):
        path.write_text(path.read_text().replace('"phones"', f'"speaker{number} - phones"'))
    assert run(source, root).probe.figures() == expected
    assert run(source, root, tier="speaker* - ph?nes").probe.figures() == expected
