"""Codes files whose JSON is gone through line by line: as if it were read as a whole."""

import json
from pathlib import Path

import numpy as np
import pytest
from doubles import FakeEngine, FakeSource, write_pictures
from pipeline_jobs import encode as encode_images
from speech_doubles import FakeSpeech
from speech_jobs import encode as encode_clips

from vqtrt.data.images.folder import ImageFolder
from vqtrt.errors import VqtrtError
from vqtrt.formats import long_codes
from vqtrt.formats.converters.convert import convert_codes
from vqtrt.formats.items import FileCodes, open_codes
from vqtrt.formats.long_codes import LongCodes

NAMES = ["a/1.png", "a/],.png", "b/é.png", 'b/",\n].png', "top.png", "z/1,].png"]


def labeled(out: Path) -> None:
    """Names with all that might be taken for the end of an element."""
    folder = write_pictures(out.parent / "pics", *NAMES)
    (folder / "a/3.png").write_bytes(b"no picture")
    encode_images(ImageFolder(folder), out, on_error="skip", engine=FakeEngine(num_codebooks=2))


def unlabeled(out: Path) -> None:
    encode_images(FakeSource(9), out)


def clips(out: Path) -> None:
    encode_clips(FakeSpeech([60, 900, 7, 60, 64, 300, 1, 145], [3]), out, on_error="skip")


@pytest.fixture(params=[labeled, unlabeled, clips])
def path(request, tmp_path, monkeypatch) -> Path:
    request.param(tmp_path / "codes.npy")
    monkeypatch.setattr(long_codes, "LONG", 0)
    return tmp_path / "codes.npy"


@pytest.mark.parametrize("scanned", [1, 7, 1 << 20])
def test_they_are_what_a_whole_reading_gives(path, monkeypatch, scanned):
    monkeypatch.setattr(long_codes, "_SCANNED", max(scanned, 40))
    codes, whole = open_codes(path), FileCodes(path)
    assert isinstance(codes, LongCodes)
    assert codes.header == whole.header
    assert len(codes) == len(whole)
    for start in (0, 1, len(codes) - 1, len(codes)):
        assert list(codes.items(start)) == list(whole.items(start))
    for index in (0, -1, len(codes) // 2):
        np.testing.assert_array_equal(codes[index], whole[index])
    for one, other in zip(codes[1:4], whole[1:4], strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(codes.each(), whole.each(), strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)
        assert (one.name, one.label, one.samples) == (other.name, other.label, other.samples)
    with pytest.raises(IndexError):
        codes[len(codes)]


def test_they_are_converted(path, monkeypatch):
    for ending in (".jsonl", ".parquet"):
        convert_codes(path, path.with_suffix(f".long{ending}"))
    monkeypatch.setattr(long_codes, "LONG", 1 << 30)
    assert isinstance(open_codes(path), FileCodes)
    for ending in (".jsonl", ".parquet"):
        convert_codes(path, path.with_suffix(f".whole{ending}"))
        long, whole = (path.with_suffix(f".{name}{ending}") for name in ("long", "whole"))
        assert long.read_bytes() == whole.read_bytes()


def test_a_json_in_another_form_is_read_as_a_whole(path):
    json_path = path.with_suffix(".json")
    items = list(open_codes(path).items())
    for indent in (None, 1, 4):
        json_path.write_text(json.dumps(json.loads(json_path.read_text()), indent=indent))
        codes = open_codes(path)
        assert isinstance(codes, FileCodes)
        assert list(codes.items()) == items


def test_without_a_json(path):
    path.with_suffix(".json").unlink()
    assert isinstance(open_codes(path), FileCodes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"rows": 9', '"rows": 8', "does not describe codes.npy"),
        ('"rows": 9', '"rows": true', "does not describe codes.npy"),
        ('"000003.png"', "3", "'files' has no such element 3"),
        ('"000003.png"', '"' + "x" * 5000 + '"', "'files' has no such element 3"),
        ('"000003.png",\n', "", "'files' has no such element 8"),
        ('"000003.png"', "nonsense", "'files' has no such element 3"),
        ('"format_version": 1', '"format_version": 9', "written by a newer vqtrt"),
        ('"codebook_size": 200', '"codebook_size": -1', "'codebook_size'"),
        ('"code_shape": [4, 4]', '"code_shape": [4, 5]', "does not describe codes.npy"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, monkeypatch, old, new, message):
    monkeypatch.setattr(long_codes, "LONG", 0)
    unlabeled(tmp_path / "codes.npy")
    json_path = tmp_path / "codes.json"
    text = json_path.read_text()
    assert text.count(old) == 1
    json_path.write_text(text.replace(old, new))
    with pytest.raises(VqtrtError, match=message):
        list(open_codes(tmp_path / "codes.npy").items())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("labels", 7, "'labels' has no such element 2"),
        ("labels", "x", "'labels' has no such element 2"),
        ("samples", 10**6, "'samples' has no such element 2"),
        ("offsets", 0, "does not describe codes.npy"),
    ],
)
def test_numbers_that_do_not_fit_are_named(tmp_path, monkeypatch, field, value, message):
    monkeypatch.setattr(long_codes, "LONG", 0)
    clips(tmp_path / "codes.npy")
    lines = (tmp_path / "codes.json").read_text().split("\n")
    at = next(n for n, line in enumerate(lines) if line.startswith(f'"{field}": [')) + 3
    lines[at] = f"{json.dumps(value)},"
    (tmp_path / "codes.json").write_text("\n".join(lines))
    with pytest.raises(VqtrtError, match=message):
        list(open_codes(tmp_path / "codes.npy").items())
