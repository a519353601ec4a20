"""`open_codes`: one file and a folder of shards give the same items."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from doubles import FakeSource
from pipeline_jobs import encode as encode_images
from speech_doubles import FakeSpeech
from speech_jobs import encode as encode_clips

import vqtrt
from vqtrt.errors import VqtrtError


def same(one, other):
    assert len(one) == len(other)
    assert one.header.kind == other.header.kind
    assert list(one.items()) == list(other.items())
    assert list(one.items(3)) == list(other.items(3)) == list(one.items())[3:]
    for index in (0, 4, -1, len(one) - 1):
        np.testing.assert_array_equal(one[index], other[index])
    for part in (slice(2, 7), slice(None), slice(5, 2)):
        for mine, theirs in zip(one[part], other[part], strict=True):
            np.testing.assert_array_equal(mine, theirs)
    for index in (len(one), -len(one) - 1):
        for codes in (one, other):
            with pytest.raises(IndexError):
                codes[index]


def test_images(tmp_path: Path) -> None:
    for name in ("codes.npy", "codes"):
        encode_images(FakeSource(11, [2]), tmp_path / name, on_error="skip")
    same(vqtrt.open_codes(tmp_path / "codes.npy"), vqtrt.open_codes(str(tmp_path / "codes")))


def test_clips(tmp_path: Path) -> None:
    for name in ("codes.npy", "codes"):
        encode_clips(FakeSpeech([60, 900, 7, 60, 64, 300, 1, 145]), tmp_path / name)
    same(vqtrt.open_codes(tmp_path / "codes.npy"), vqtrt.open_codes(tmp_path / "codes"))


def test_an_array_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    codes = vqtrt.open_codes(tmp_path / "x.npy")
    assert (len(codes), codes.header, list(codes.items())) == (2, None, [])
    assert codes[1].shape == (3, 4)


def test_what_holds_no_codes(tmp_path: Path) -> None:
    with pytest.raises(VqtrtError, match=r"holds no job\.json"):
        vqtrt.open_codes(tmp_path)
    with pytest.raises(VqtrtError, match=r"none\.npy: cannot be read"):
        vqtrt.open_codes(tmp_path / "none.npy")


def test_no_more_than_numpy_is_imported(tmp_path: Path) -> None:
    encode_images(FakeSource(3), tmp_path / "codes")
    text = "import sys, vqtrt; vqtrt.open_codes(sys.argv[1])[0]; print(*sys.modules)"
    run = [sys.executable, "-c", text, str(tmp_path / "codes")]
    loaded = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "onnxruntime", "onnx", "PIL", "soundfile", "typer"} & set(loaded)
