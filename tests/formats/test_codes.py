import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codes_files import values, write

from vqtrt.errors import VqtrtError
from vqtrt.formats import code_values
from vqtrt.formats import codes as reader
from vqtrt.formats.code_values import check_codes
from vqtrt.formats.codes import read_codes


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "codes.npy"


def test_array_without_json(out: Path) -> None:
    np.save(out, values(3).astype(np.int64))
    result = read_codes(out)
    assert (result.header, result.files, result.labels, result.rejected) == (None, (), (), ())
    np.testing.assert_array_equal(result.codes, values(3))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 2, 2), np.float32), "float32, but codes are integers"),
        (np.zeros((1, 2, 2), bool), "codes are integers"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\), but codes are \(N, h, w\)"),
        (np.zeros((1, 2, 2, 2, 2), np.uint8), "but codes are"),
        (np.array([[[0, 1], [2, -7]]]), r"row 0 at \(1, 1\) holds -7, but codes are never neg"),
    ],
)
def test_arrays_that_are_no_codes(out: Path, array: np.ndarray, message: str) -> None:
    np.save(out, array)
    with pytest.raises(VqtrtError, match=message):
        read_codes(out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "written by a newer vqtrt"),
        ({"format_version": True}, "not the JSON of a codes file"),
        ({"format_version": "1"}, "not the JSON of a codes file"),
        ({"rows": 4}, "describes 4 rows, but codes.npy has 3"),
        ({"rows": 3.0}, "describes 3.0 rows"),
        ({"rows": "x" * 500 + "\n"}, r"describes x{57}\.\.\. rows"),
        ({"code_shape": [4, 4]}, r"describes codes \(N, 4, 4\)"),
        ({"num_codebooks": 2}, r"describes codes \(N, 3, 4, 2\)"),
        ({"codebook_size": 0}, "'codebook_size'"),
        ({"codebook_size": 10**30}, "'codebook_size'"),
        ({"kind": "speech"}, "'kind'"),
        ({"extra": 1}, "'extra'"),
        ({"model": {"run": [1]}}, "'model.run'"),
        ({"files": ["a", "b"]}, "'files' is not a list of 3 names"),
        ({"files": ["a", "b", 3]}, "'files' is not"),
        ({"files": None}, "'files' is not"),
        ({"labels": [0, 1]}, "'labels' is not a list of 3"),
        ({"labels": [0, 1, True]}, "'labels' is not"),
        ({"labels": [0, 1, 2]}, "not an index into the classes"),
        ({"labels": [0, 1, -2]}, "not an index into the classes"),
        ({"classes": []}, "'labels' is not a list of 0"),
        ({"rejected": None}, "'rejected' is not"),
        ({"rejected": [{"file": "a"}]}, "'rejected' is not"),
        ({"rejected": [{"file": "a", "reason": 1}]}, "'rejected' is not"),
    ],
)
def test_json_that_does_not_belong_to_the_array(
    out: Path, change: dict[str, Any], message: str
) -> None:
    write(out, values(3))
    path = out.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(VqtrtError, match=message) as caught:
        read_codes(out)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe\xff", "not valid JSON"),
        (b'{"format_version": 1', "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"format_version": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        (b"[1]", "not the JSON of a codes file"),
        (b"{}", "not the JSON of a codes file"),
        (b'{"format_version": 1}', "'codebook_size'"),
    ],
)
def test_files_that_are_not_our_json(out: Path, data: bytes, message: str) -> None:
    np.save(out, values(3))
    out.with_suffix(".json").write_bytes(data)
    with pytest.raises(VqtrtError, match=message):
        read_codes(out)


def test_json_is_bounded_and_a_regular_file(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(out, values(3))
    monkeypatch.setattr(reader, "MAX_JSON_BYTES", 100)
    with pytest.raises(VqtrtError, match="larger than 100 bytes"):
        read_codes(out)
    path = out.with_suffix(".json")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(VqtrtError, match="not a regular file"):
        read_codes(out)


def test_json_is_bounded_by_the_rows(out: Path) -> None:
    np.save(out, values(3))
    with out.with_suffix(".json").open("wb") as file:
        file.truncate(reader.json_limit(3) + 1)  # sparse: nothing of it is read
    tracemalloc.start()
    try:
        with pytest.raises(VqtrtError, match=r"larger than \d+ bytes, the most for the rows of"):
            read_codes(out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert reader.json_limit(3) < 40 << 20
    # The longest names, every byte of them escaped, fit in.
    written = json.dumps("\udcff" * reader.MAX_NAME_BYTES)
    assert len(written) + 100 < reader.json_limit(1) - reader.json_limit(0)
    assert reader.json_limit(1 << 40) == reader.MAX_JSON_BYTES


def test_names_are_bounded(out: Path) -> None:
    write(out, values(3))
    path = out.with_suffix(".json")
    facts = json.loads(path.read_text())
    for name, fits in (
        ("a/" * 2046 + "x.png", False),
        ("a" * 4096, True),
        ("é" * 2048, True),
        ("é" * 2049, False),
        ("a/" * 30_000 + "x.png", False),
    ):
        path.write_text(json.dumps(facts | {"files": [name, "b", "c"]}))
        if fits:
            assert read_codes(out).files[0] == name
            continue
        tracemalloc.start()
        try:
            with pytest.raises(VqtrtError, match=r"row 0 .* is longer than 4096 bytes") as caught:
                read_codes(out)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 2 << 20
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("depth", [7, 500, 100_000])
def test_nesting_is_bounded(out: Path, depth: int) -> None:
    write(out, values(3))
    path = out.with_suffix(".json")
    text = path.read_text().replace('"resize": 12', f'"resize": {"[" * depth}{"]" * depth}')
    path.write_text(text)
    with pytest.raises(VqtrtError, match=r"nested deeper|not valid JSON"):
        read_codes(out)


def test_check_codes_names_the_first_bad_value(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = values(9, (3, 7)).astype(np.uint16)
    check_codes(codes, 512, (3, 7), 1)
    check_codes(codes, 512, None, 1)
    check_codes(codes[:0], 512, None, 1)
    codes[3, 2, 5], codes[7, 0, 0] = 700, 900
    message = r"^codes.npy: row 3 at \(2, 5\) holds 700, .* has 512 entries \(0 to 511\)$"
    for chunk in (1, 100, 1 << 20):
        monkeypatch.setattr(code_values, "CHUNK_BYTES", chunk)
        with pytest.raises(VqtrtError, match=message):
            check_codes(codes, 512, (3, 7), 1)
    with pytest.raises(VqtrtError, match=r"^x: row 0 at \(0, 1, 1\) holds -1,"):
        check_codes(np.array([[[[0, 0], [0, -1]]]]), 4, None, 2, name="x")


def test_check_codes_says_which_shape_is_meant() -> None:
    one, two = np.zeros((5, 3, 4), np.uint8), np.zeros((5, 3, 4, 2), np.uint8)
    check_codes(two, 256, (3, 4), 2)
    for codes, shape, books, form in [
        (one, (4, 4), 1, r"\(N, 4, 4\)"),
        (one, None, 2, r"\(N, h, w, 2\)"),
        (two, (3, 4), 1, r"\(N, 3, 4\)"),
        (two, (3, 4), 3, r"\(N, 3, 4, 3\)"),
    ]:
        with pytest.raises(VqtrtError, match=f"the model takes {form}"):
            check_codes(codes, 256, shape, books)
    with pytest.raises(VqtrtError, match="codes are integers"):
        check_codes(one.astype(float), 256, None, 1)
