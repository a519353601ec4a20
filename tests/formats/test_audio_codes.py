import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_codes_files import SAMPLES, STRIDE, clips, image_header, same, write

from vqtrt.errors import VqtrtError
from vqtrt.formats import code_values
from vqtrt.formats.audio_codes import (
    ClipCodes,
    check_clip_codes,
    codes_in,
    open_codes,
    read_clip_codes,
)
from vqtrt.formats.codes import Codes, is_codes, read_codes
from vqtrt.formats.codes_writer import CodesWriter


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "codes.npy"


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
        monkeypatch.setattr(code_values, "CHUNK_BYTES", chunk)
        wanted = r"codes\.npy: clip 5 \(dir/00005\.wav\) holds 600 at 0, .* has 512 entries"
        with pytest.raises(VqtrtError, match=wanted):
            check_clip_codes(bad, 512)
    flat[0] = 600
    with pytest.raises(VqtrtError, match=r"clip 0 \(dir/00000\.wav\) holds 600 at 0"):
        check_clip_codes(bad, 512)
    np.save(out, flat.astype(np.int16) - 600)
    with pytest.raises(VqtrtError, match=r"clip 0 .*holds -\d+ at 1, but codes are never neg"):
        read_clip_codes(out)


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
