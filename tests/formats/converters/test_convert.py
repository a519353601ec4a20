"""Codes in other formats: read back by what trainers read them with."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doubles import FakeEngine, FakeSource, write_pictures
from pipeline_jobs import encode as encode_images
from speech_doubles import FakeSpeech
from speech_jobs import encode as encode_clips

import vqtrt
from vqtrt.data.images.folder import ImageFolder
from vqtrt.errors import VqtrtError
from vqtrt.formats import parquet
from vqtrt.formats.converters.convert import FORMATS, convert_codes
from vqtrt.formats.items import open_codes

LENGTHS = [60, 900, 7, 60, 64, 300, 1, 145]
NAMES = ["a/1.png", "a/2.b.png", "b/é.png", "b/x.png", "top.png", "z/1.png", "z/2.png"]


FORMS = ["images file", "images shards", "clips file", "clips shards"]


@pytest.fixture
def path(request, tmp_path: Path) -> Path:
    """Codes of images or of clips, as one file or as shards."""
    kind, form = request.param.split()
    out = tmp_path / ("codes.npy" if form == "file" else "codes")
    options = {} if form == "file" else {"shard_size": 3}
    if kind == "clips":
        encode_clips(FakeSpeech(LENGTHS), out, **options)
        return out
    folder = ImageFolder(write_pictures(tmp_path / "pics", *NAMES))
    (tmp_path / "pics/a/3.png").write_bytes(b"no picture")
    engine = FakeEngine(codebook_size=300, num_codebooks=2)
    encode_images(folder, out, on_error="skip", engine=engine, **options)
    return out


def converted(codes: Path, ending: str) -> Path:
    out = codes.parent / f"out{ending}"
    assert convert_codes(codes, out) == len(open_codes(codes))
    return out


@pytest.mark.parametrize("path", FORMS[:2], indirect=True)
def test_parquet_of_images(path, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP", 3)
    file = pq.ParquetFile(converted(path, ".parquet"))
    codes = vqtrt.open_codes(path)
    assert file.num_row_groups == 3
    assert file.schema_arrow.field("codes").type == pa.list_(
        pa.field("element", pa.uint16(), nullable=False), 4 * 4 * 2
    )
    table = file.read()
    rows = np.array(table["codes"].to_pylist(), np.uint16).reshape(len(codes), 4, 4, 2)
    np.testing.assert_array_equal(rows, codes[:])
    assert table["id"].to_pylist() == [name for name, _ in codes.items()]
    assert table["label"].to_pylist() == [label for _, (label, *_) in codes.items()]
    header = json.loads(file.schema_arrow.metadata[b"vqtrt"])
    assert (header["code_shape"], header["num_codebooks"], header["classes"]) == (
        [4, 4],
        2,
        ["a", "b", "z"],
    )


@pytest.mark.parametrize("path", FORMS[2:], indirect=True)
def test_parquet_of_clips(path):
    table = pq.read_table(converted(path, ".parquet"))
    codes = vqtrt.open_codes(path)
    for index, row in enumerate(table["codes"].to_pylist()):
        np.testing.assert_array_equal(row, codes[index])
    assert table["samples"].to_pylist() == LENGTHS


@pytest.mark.parametrize("path", FORMS, indirect=True)
def test_lines_of_json(path):
    codes = vqtrt.open_codes(path)
    lines = [json.loads(line) for line in converted(path, ".jsonl").read_text().splitlines()]
    assert len(lines) == len(codes)
    for index, (line, (name, numbers)) in enumerate(zip(lines, codes.items(), strict=True)):
        assert (line["id"], line["class_id"]) == (name, numbers[0])
        assert line["tokens"] == codes[index].ravel().tolist()
        assert line.get("samples") == (*numbers, None, None)[2]


@pytest.mark.parametrize("path", FORMS, indirect=True)
def test_flat_numbers(path):
    flat = np.memmap(converted(path, ".bin"), "<u2")
    codes = vqtrt.open_codes(path)
    np.testing.assert_array_equal(flat, np.concatenate([c.ravel() for c in codes[:]]))


@pytest.mark.parametrize("path", FORMS, indirect=True)
def test_a_tar_of_samples(path):
    codes = vqtrt.open_codes(path)
    with tarfile.open(converted(path, ".tar")) as tar:
        for index, (name, numbers) in enumerate(codes.items()):
            file = tar.extractfile(f"{index:09}.codes.npy")
            assert file is not None
            array = np.load(io.BytesIO(file.read()))
            np.testing.assert_array_equal(array, codes[index])
            about = tar.extractfile(f"{index:09}.json")
            assert about is not None
            known = json.loads(about.read())
            assert (known["id"], known.get("samples")) == (name, (*numbers, None, None)[2])
            label = f"{index:09}.cls" in tar.getnames()
            assert label == (numbers[0] >= 0)


@pytest.mark.parametrize("ending", sorted(FORMATS))
def test_one_file_and_shards_give_the_same_bytes(tmp_path, ending):
    made = []
    for name, options in (("codes.npy", {}), ("codes", {"shard_size": 4})):
        encode_images(FakeSource(11), tmp_path / name, **options)
        data = converted(tmp_path / name, ending).read_bytes()
        made.append(data.replace(b'"runs/fake"', b"").replace(b'"fake"', b""))
    if ending != ".parquet":  # whose metadata hold where the model lay, in a file alone
        assert made[0] == made[1]


def test_what_cannot_be(tmp_path):
    encode_images(FakeSource(3), tmp_path / "codes.npy")
    with pytest.raises(VqtrtError, match=r"x\.h5: --to must end in \.npy, \.bin"):
        convert_codes(tmp_path / "codes.npy", tmp_path / "x.h5")
    (tmp_path / "codes.json").unlink()
    with pytest.raises(VqtrtError, match=r"codes\.npy: has no \.json"):
        convert_codes(tmp_path / "codes.npy", tmp_path / "x.jsonl")
    engine = FakeEngine(codebook_size=1 << 17)
    encode_images(FakeSource(3), tmp_path / "large.npy", engine=engine)
    with pytest.raises(VqtrtError, match=r"131071 do not fit into 16 bits"):
        convert_codes(tmp_path / "large.npy", tmp_path / "x.bin")
    assert not (tmp_path / "x.bin").exists()
