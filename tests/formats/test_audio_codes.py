import json
import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqtrt.errors import VqtrtError
from vqtrt.formats import codes as shared
from vqtrt.formats.audio_codes import (
    ClipCodes,
    ClipHeader,
    check_clip_codes,
    codes_in,
    open_codes,
    read_clip_codes,
)
from vqtrt.formats.codes import Codes, CodesHeader, Rejected, is_codes, read_codes
from vqtrt.formats.codes_writer import ClipWriter, CodesWriter

STRIDE = 64


def header(**changes: Any) -> ClipHeader:
    fields: dict[str, Any] = {
        "codebook_size": 512,
        "sample_rate": 16_000,
        "stride": STRIDE,
        "classes": ("jackson", "theo"),
        "root": "data",
        "listing_sha256": "a" * 64,
        "weights_sha256": "b" * 64,
        "model": {"path": "r1"},
        "preprocessing": {"sample_rate": 16_000, "level_db": None},
        "vqtrt_version": "0.1.0",
    }
    return ClipHeader(**{**fields, **changes})


SAMPLES = [64 * 5, 1, 64, 65, 64 * 40 - 1, 64 * 9 + 3, 700, 2000]
"""Of eight clips; the lengths that fill a code and those beside it are among them."""


def clips(seed: int = 0, size: int = 512, samples: list[int] = SAMPLES) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, size, codes_in(n, STRIDE), dtype=np.int32) for n in samples]


def names(start: int, stop: int) -> list[str]:
    return [f"dir/{i:05}.wav" for i in range(start, stop)]


def labels(start: int, stop: int) -> list[int]:
    return [i % 3 - 1 for i in range(start, stop)]


def put(writer: ClipWriter, start: int, stop: int, seed: int = 0) -> None:
    part = slice(start, stop)
    writer.write(names(start, stop), labels(start, stop), clips(seed)[part], SAMPLES[part])


def write(out: Path, **changes: Any) -> Path:
    with ClipWriter(out, header=header(**changes), resume=False) as writer:
        put(writer, 0, len(SAMPLES))
        return writer.finish()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "codes.npy"


def left(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


def same(codes: ClipCodes, wanted: list[np.ndarray]) -> None:
    assert len(codes) == len(wanted)
    for index, clip in enumerate(wanted):
        np.testing.assert_array_equal(codes.clip(index), clip)


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


def test_array_without_json_is_one_clip(out: Path) -> None:
    np.save(out, clips()[4].astype(np.int64))
    codes = read_clip_codes(out)
    assert (codes.header, codes.files, codes.labels, codes.samples) == (None, (), (), ())
    same(codes, clips()[4:5])
    np.save(out, np.zeros(0, np.int64))
    same(read_clip_codes(out), [])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(4, np.float32), "float32, but codes are integers"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\), but codes of speech have one axis"),
        (np.array([0, 1, 2, -7]), r"clip 0 holds -7 at 3, but codes are never negative"),
    ],
)
def test_arrays_that_are_no_codes(out: Path, array: np.ndarray, message: str) -> None:
    np.save(out, array)
    with pytest.raises(VqtrtError, match=message):
        read_clip_codes(out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "written by a newer vqtrt"),
        ({"rows": 7}, "'offsets' is not a list of 8 integers"),
        ({"rows": 8.0}, r"'rows' is 8\.0, no number of clips"),
        ({"rows": -1}, "'rows' is -1"),
        ({"rows": "x" * 500 + "\n"}, r"'rows' is x{57}\.\.\."),
        ({"offsets": None}, "'offsets' is not a list of 9"),
        ({"offsets": [0, 5, 6, 7, 9, 49, 59, 70, 102.0]}, "'offsets' is not"),
        ({"offsets": [1, 5, 6, 7, 9, 49, 59, 70, 102]}, "'offsets' do not ascend from 0"),
        ({"offsets": [0, 5, 4, 7, 9, 49, 59, 70, 102]}, "'offsets' do not ascend from 0"),
        ({"offsets": [0, -5, 6, 7, 9, 49, 59, 70, 102]}, "'offsets' do not ascend from 0"),
        ({"offsets": [0, 5, 6, 7, 9, 49, 59, 70, 103]}, "describes 103 codes, .* has 102"),
        ({"offsets": [0, 5, 6, 7, 9, 49, 59, 70, 10**40]}, r"describes 10+\.* codes"),
        ({"offsets": [0, 5, 6, 7, 9, 49, 59, 71, 102]}, "clip 6 has 12 codes for 700 samples"),
        ({"samples": SAMPLES[:7]}, "'samples' is not a list of 8"),
        ({"samples": [*SAMPLES[:7], True]}, "'samples' is not a list of 8"),
        ({"samples": [*SAMPLES[:7], 2049]}, "clip 7 has 32 codes for 2049 samples at 64"),
        ({"samples": [*SAMPLES[:7], 10**400]}, r"clip 7 has 32 codes for 10+\.\.\. samples"),
        ({"stride": 32}, "clip 0 has 5 codes for 320 samples at 32"),
        ({"stride": 0}, "'stride'"),
        ({"sample_rate": 0}, "'sample_rate'"),
        ({"num_codebooks": 2}, "'num_codebooks'"),
        ({"code_shape": [1, 2]}, "'code_shape'"),
        ({"kind": "film"}, "'kind'"),
        ({"kind": ["speech"]}, "'kind'"),
        ({"files": ["a", "b"]}, "'files' is not a list of 8 names"),
        ({"labels": [0, 1]}, "'labels' is not a list of 8"),
        ({"labels": [2] * 8}, "not an index into the classes"),
        ({"rejected": None}, "'rejected' is not"),
    ],
)
def test_json_that_does_not_belong_to_the_array(
    out: Path, change: dict[str, Any], message: str
) -> None:
    path = write(out).with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(VqtrtError, match=message) as caught:
        read_clip_codes(out)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_list_of_no_offsets(out: Path) -> None:
    path = write(out).with_suffix(".json")
    facts = json.loads(path.read_text()) | {"rows": 0, "offsets": [], "samples": []}
    path.write_text(json.dumps(facts))
    with pytest.raises(VqtrtError, match="'offsets' is not a list of 1 integers"):
        read_clip_codes(out)


def test_the_first_bad_code_is_named(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = read_clip_codes(write(out))
    check_clip_codes(codes, 512)
    flat = np.asarray(codes.codes).copy()
    flat[49], flat[60] = 600, 700
    bad = ClipCodes(out, flat, codes.offsets, codes.header, codes.files)
    for chunk in (1, 10, 1 << 20):
        monkeypatch.setattr(shared, "CHUNK_BYTES", chunk)
        wanted = r"codes\.npy: clip 5 \(dir/00005\.wav\) holds 600 at 0, .* has 512 entries"
        with pytest.raises(VqtrtError, match=wanted):
            check_clip_codes(bad, 512)
    flat[0] = 600
    with pytest.raises(VqtrtError, match=r"clip 0 \(dir/00000\.wav\) holds 600 at 0"):
        check_clip_codes(bad, 512)
    np.save(out, flat.astype(np.int16) - 600)
    with pytest.raises(VqtrtError, match=r"clip 0 .*holds -\d+ at 1, but codes are never neg"):
        read_clip_codes(out)


def image_header() -> CodesHeader:
    fields = header().model_dump(exclude={"kind", "sample_rate", "stride"})
    return CodesHeader(**fields, code_shape=(2, 2), image_size=(8, 8))


def test_codes_of_the_other_kind(out: Path) -> None:
    write(out)
    message = r"codes\.json: 'kind' says that these are codes of speech, where codes of images are"
    with pytest.raises(VqtrtError, match=message):
        read_codes(out)
    assert is_codes(out)
    assert isinstance(open_codes(out), ClipCodes)
    with CodesWriter(out, header=image_header(), resume=False) as writer:
        writer.write(["a.png"], [0], np.zeros((1, 2, 2), np.int32))
        writer.finish()
    message = r"codes\.json: 'kind' says that these are codes of images, where codes of speech are"
    with pytest.raises(VqtrtError, match=message):
        read_clip_codes(out)
    assert isinstance(open_codes(out), Codes)


def test_arrays_without_json_are_told_by_their_axes(out: Path) -> None:
    np.save(out, np.zeros(3, np.uint8))
    assert isinstance(open_codes(out), ClipCodes)
    np.save(out, np.zeros((3, 2, 2), np.uint8))
    assert isinstance(open_codes(out), Codes)
    np.save(out, np.zeros((3, 2), np.uint8))
    with pytest.raises(VqtrtError, match=r"has shape \(3, 2\)"):
        open_codes(out)


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 6400])
def test_codes_cover_their_samples(samples: int) -> None:
    codes = codes_in(samples, STRIDE)
    assert (codes - 1) * STRIDE < samples <= codes * STRIDE
