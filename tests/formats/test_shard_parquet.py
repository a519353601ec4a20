"""Shards whose rows are Parquet files: the codes of .npy shards, by the same rules."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doubles import FakeEngine, FakeSource
from pipeline_jobs import encode as encode_images
from speech_doubles import FakeSpeech
from speech_jobs import encode as encode_clips

from vqtrt.errors import VqtrtError
from vqtrt.formats import shard_writer
from vqtrt.formats.items import open_codes
from vqtrt.formats.shard_codes import merge
from vqtrt.formats.shards import read_job, rows_path

LENGTHS = [60, 900, 7, 60, 64, 300, 1, 145, 144, 143, 33]


def images(out: Path, **options) -> None:
    engine = FakeEngine(codebook_size=300, num_codebooks=2)
    source = FakeSource(23, [4, 5, 6, 7, 8, 9, 21])  # all of a shard, the second
    encode_images(source, out, engine=engine, on_error="skip", **options)


def clips(out: Path, **options) -> None:
    encode_clips(FakeSpeech(LENGTHS, [3, 8, 9]), out, on_error="skip", **options)


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(params=[images, clips])
def encode(request):
    return request.param


@pytest.fixture
def whole(encode, tmp_path) -> Path:
    encode(tmp_path / "whole", shard_size=4, format="parquet")
    return tmp_path / "whole"


def test_the_codes_are_those_of_npy(encode, whole, tmp_path):
    encode(tmp_path / "npy", shard_size=4)
    encode(tmp_path / "one.npy")
    one, other = open_codes(whole), open_codes(tmp_path / "npy")
    assert len(one) == len(other)
    assert list(one.items()) == list(other.items())
    for index in (0, 5, -1, len(one) // 2):
        np.testing.assert_array_equal(one[index], other[index])
    for a, b in zip(one[2:7], other[2:7], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(one.each(), other.each(), strict=True):
        np.testing.assert_array_equal(a.codes, b.codes)
        assert (a.name, a.label, a.samples) == (b.name, b.label, b.samples)
    merge(whole, tmp_path / "merged.npy", check=True)
    assert (tmp_path / "merged.npy").read_bytes() == (tmp_path / "one.npy").read_bytes()
    assert (whole / "index.json").exists()


def test_job_json_says_so(encode, whole, tmp_path):
    assert json.loads((whole / "job.json").read_text())["format"] == "parquet"
    encode(tmp_path / "npy", shard_size=4)
    assert "format" not in json.loads((tmp_path / "npy/job.json").read_text())
    assert read_job(tmp_path / "npy").format == "npy"
    with pytest.raises(VqtrtError, match="has shards of format parquet, not npy"):
        encode(whole, format="npy")
    (whole / "job.json").write_text((whole / "job.json").read_text().replace("parquet", "csv"))
    with pytest.raises(VqtrtError, match=r"job\.json: 'format'"):
        read_job(whole)


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 16}, {"batch_size": 1}])
def test_the_bytes_do_not_depend_on_who_makes_them(encode, whole, tmp_path, options):
    for turn in (2, 0, 1):
        out = tmp_path / "other"
        encode(out, shard_size=4, format="parquet", turn=(turn, 3), **options)
    assert files(tmp_path / "other") == files(whole)
    rows_path(whole, read_job(whole), 0).with_suffix(".jsonl").unlink()
    encode(whole)
    assert files(tmp_path / "other") == files(whole)


def test_others_read_a_shard(encode, whole, monkeypatch):
    job = read_job(whole)
    table = pq.read_table(rows_path(whole, job, 0))
    names = ["id", "label", "codes"] + (["samples"] if encode is clips else [])
    assert table.schema.names == names
    kind = table.schema.field("codes").type
    assert pa.types.is_fixed_size_list(kind) == (encode is images)
    assert kind.value_type == (pa.uint16() if encode is images else pa.uint8())
    known = json.loads(table.schema.metadata[b"vqtrt"])
    assert known["kind"] == ("image" if encode is images else "speech")
    codes = open_codes(whole)
    for row, wanted in zip(table["codes"].to_pylist(), codes[: len(table)], strict=True):
        np.testing.assert_array_equal(row, np.ravel(wanted))


def test_a_row_group_has_a_bound(encode, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "GROUP", 3)
    encode(tmp_path / "groups", format="parquet")
    encode(tmp_path / "one.npy")
    path = rows_path(tmp_path / "groups", read_job(tmp_path / "groups"), 0)
    groups = pq.ParquetFile(path).metadata
    counts = [groups.row_group(n).num_rows for n in range(groups.num_row_groups)]
    assert counts[:-1] == [3] * (len(counts) - 1)
    merge(tmp_path / "groups", tmp_path / "merged.npy")
    assert (tmp_path / "merged.npy").read_bytes() == (tmp_path / "one.npy").read_bytes()


@pytest.mark.parametrize("change", ["gone", "cut", "flipped", "empty"])
def test_merge_names_a_damaged_shard(whole, change):
    path = rows_path(whole, read_job(whole), 0)
    data = path.read_bytes()
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": data[:-3], "empty": b"", "flipped": data[:-1] + b"\0"}[change])
    with pytest.raises(VqtrtError, match=r"shard 0 has (another|no) \.parquet"):
        merge(whole, check=True)
    with pytest.raises(VqtrtError, match=r"000000\.parquet: cannot be read"):
        open_codes(whole)[0]


def test_a_strangers_file_is_refused(encode, whole):
    path = rows_path(whole, read_job(whole), 0)
    pq.write_table(pa.table({"codes": [[1.5] * 32] * 4}), path)
    with pytest.raises(VqtrtError, match=r"000000\.parquet: has codes of another type"):
        open_codes(whole)[0]
    pq.write_table(pa.table({"other": [1]}), path)
    with pytest.raises(VqtrtError, match=r"000000\.parquet: "):
        open_codes(whole)[0]
