import json
import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_codes_files import SAMPLES, clips, header, image_header, labels, names, put, same, write

from vqtrt.errors import VqtrtError
from vqtrt.formats.audio_codes import read_clip_codes
from vqtrt.formats.codes import Rejected
from vqtrt.formats.codes_writer import ClipWriter, CodesWriter


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "codes.npy"


def left(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


ALL = ["codes.json", "codes.npy"]
PARTIAL = ["codes.npy.partial", "codes.npy.partial.jsonl"]


def test_clips_rejects_and_speakers_come_back_in_order(out: Path) -> None:
    with ClipWriter(out, header=header(), resume=True) as writer:
        put(writer, 0, 3)
        writer.reject("bad\n1.wav", "no audio")
        writer.commit()
        put(writer, 3, 3)
        put(writer, 3, 8)
        assert (writer.rows, writer.written, writer.files_done) == (sum(map(len, clips())), 8, 9)
        assert left(out) == PARTIAL
        assert writer.finish() == out
    assert left(out) == ALL
    flat = np.load(out)
    assert (flat.dtype, flat.ndim) == (np.uint16, 1)
    np.testing.assert_array_equal(flat, np.concatenate(clips()))
    codes = read_clip_codes(out)
    assert isinstance(codes.codes, np.memmap)
    same(codes, clips())
    assert codes.header == header()
    assert codes.files == tuple(names(0, 8))
    assert codes.labels == tuple(labels(0, 8))
    assert codes.samples == tuple(SAMPLES)
    assert codes.lengths() == [5, 1, 1, 2, 40, 10, 11, 32]
    assert codes.rejected == (Rejected("bad\n1.wav", "no audio"),)
    plain = json.loads(out.with_suffix(".json").read_text())
    assert (plain["format_version"], plain["kind"], plain["rows"]) == (1, "speech", 8)
    assert (plain["sample_rate"], plain["stride"], plain["num_codebooks"]) == (16_000, 64, 1)
    assert plain["offsets"] == [0, 5, 6, 7, 9, 49, 59, 70, 102]


def test_names_that_are_not_utf8_survive(out: Path) -> None:
    name = os.fsdecode(b"caf\xe9, [1], 3.wav")
    head = header(root=name, classes=(name,))
    with ClipWriter(out, header=head, resume=False) as writer:
        writer.write([name], [0], clips()[:1], SAMPLES[:1])
        writer.finish()
    codes = read_clip_codes(out)
    assert (codes.files, codes.header) == ((name,), head)


def test_no_clips_and_no_speakers(out: Path) -> None:
    with ClipWriter(out, header=header(classes=()), resume=False) as writer:
        writer.finish()
    codes = read_clip_codes(out)
    assert (len(codes), codes.offsets, codes.codes.shape) == (0, (0,), (0,))
    write(out, classes=())
    assert read_clip_codes(out).labels == ()
    assert "labels" not in json.loads(out.with_suffix(".json").read_text())


def test_wrong_calls_are_refused(out: Path) -> None:
    good = clips()[:1]
    with ClipWriter(out, header=header(), resume=False) as writer:
        for codes, samples in [
            (good[0][:4], 320),
            (good[0], 256),
            (good[0], 321),
            (good[0][None], 320),
            (good[0].astype(float), 320),
            (good[0][:0], 0),
        ]:
            with pytest.raises(ValueError, match=r"codes (int32|float64) .* of \d+ samples"):
                writer.write(["a"], [0], [codes], [samples])
        with pytest.raises(ValueError, match="labels outside"):
            writer.write(["a"], [2], good, [320])
        with pytest.raises(ValueError, match="names, labels, clips and samples"):
            writer.write(["a"], [0], good, [320, 320])
        assert writer.files_done == 0


@pytest.mark.parametrize("bad", [-1, 512])
def test_codes_outside_the_codebook_are_never_wrapped(out: Path, bad: int) -> None:
    codes = clips()
    codes[3][1] = bad
    writer = ClipWriter(out, header=header(), resume=False)
    with pytest.raises(VqtrtError, match=rf"gave code {bad}, .*512 entries"), writer:
        writer.write(names(0, 8), labels(0, 8), codes, SAMPLES)
    assert left(out) == []


def killed_and_resumed(out: Path, tail: bytes, data_tail: bytes) -> ClipWriter:
    """A writer killed after committing 6 items with 5 clips and starting on more, then resumed."""
    dead = ClipWriter(out, header=header(), resume=False)
    put(dead, 0, 2)
    dead.commit()
    put(dead, 2, 5)
    dead.reject("bad.wav", "why")
    dead.commit()
    copy = out.parent / "copy"
    copy.mkdir()
    for name in PARTIAL:
        shutil.copy(out.parent / name, copy)
    dead.abort()
    for name, more in zip(PARTIAL, (data_tail, tail), strict=True):
        with (copy / name).open("ab") as file:
            file.write(more)
    return ClipWriter(copy / "codes.npy", header=header(), resume=True)


@pytest.mark.parametrize(
    ("tail", "data_tail"),
    [
        (b"", b""),
        (b'["dir/00005.wav", 1, 10, 579]\n["dir/000', b"x" * 7),
        # More codes than the data has.
        (b'["dir/00005.wav", 1, 10, 579]\n{"commit": 59, "files": 7}\n', b"x" * 19),
        # Does not add up.
        (b'["dir/00005.wav", 1, 10, 579]\n{"commit": 58, "files": 7}\n', b"x" * 99),
        (b'["dir/00005.wav", 1, 10, 577]\n{"commit": 50, "files": 7}\n', b"x" * 99),
        # No clip has so many codes for its samples, nor less than one sample, nor only a label.
        (b'["dir/00005.wav", 1, 11, 579]\n{"commit": 60, "files": 7}\n', b"x" * 99),
        (b'["dir/00005.wav", 1, 0, 0]\n{"commit": 49, "files": 7}\n', b"x" * 99),
        (b'["dir/00005.wav", 1, -49, -3136]\n{"commit": 0, "files": 7}\n', b"x" * 99),
        (b'["dir/00005.wav", 1]\n{"commit": 50, "files": 7}\n', b"x" * 99),
        (b'["dir/00005.wav", 1, 10.0, 579]\n{"commit": 59, "files": 7}\n', b"x" * 99),
        (b"[]\n" + b'{"commit": 49, "files": 6}\n', b""),
        (b"\0" * 50 + b"\n" + b'{"commit": 49, "files": 6}\n', b"x" * 99),
    ],
)
def test_resume_starts_at_the_last_whole_commit(out: Path, tail: bytes, data_tail: bytes) -> None:
    with killed_and_resumed(out, tail, data_tail) as writer:
        assert (writer.rows, writer.written, writer.files_done) == (49, 5, 6)
        put(writer, 5, 8)
        writer.finish()
    assert left(writer.out) == ALL
    codes = read_clip_codes(writer.out)
    same(codes, clips())
    assert codes.files == tuple(names(0, 8))
    assert codes.rejected == (Rejected("bad.wav", "why"),)
    assert write(out).read_bytes() == writer.out.read_bytes()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("weights_sha256", "c" * 64, "the model changed since it was begun"),
        ("stride", 128, r"begun with another stride \("),
        ("sample_rate", 8000, r"begun with another sample_rate \("),
    ],
)
def test_resume_with_another_header_names_what_differs(
    out: Path, field: str, value: Any, message: str
) -> None:
    with ClipWriter(out, header=header(), resume=False) as writer:
        put(writer, 0, 4)
        writer.commit()
    with pytest.raises(VqtrtError, match=f"{message}.*; mend that, or start anew without --res"):
        ClipWriter(out, header=header(**{field: value}), resume=True)
    with ClipWriter(out, header=header(), resume=True) as writer:
        assert writer.files_done == 4


def test_a_partial_of_images_is_not_resumed_with_clips(out: Path) -> None:
    with CodesWriter(out, header=image_header(), resume=False) as images:
        images.write(["a.png"], [0], np.zeros((1, 2, 2), np.int32))
        images.commit()
    with pytest.raises(VqtrtError, match="begun with another kind"):
        ClipWriter(out, header=header(), resume=True)


def test_second_writer_is_refused(out: Path) -> None:
    with ClipWriter(out, header=header(), resume=False) as first:
        put(first, 0, 3)
        with pytest.raises(VqtrtError, match="another process is writing"):
            ClipWriter(out, header=header(), resume=True)
        put(first, 3, 8)
        first.finish()
    same(read_clip_codes(out), clips())


def test_memory_stays_flat(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqtrt.formats.journal.BUFFER_BYTES", 1 << 14)
    with ClipWriter(out, header=header(), resume=False) as writer:
        put(writer, 0, 8)
        tracemalloc.start()
        for start in range(0, 16_000, 8):
            writer.write(names(start, start + 8), labels(0, 8), clips(), SAMPLES)
        writer.finish()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # The 16,000 names alone would take 1 MB.
    assert peak < 500_000
    assert len(read_clip_codes(out)) == 16_008
