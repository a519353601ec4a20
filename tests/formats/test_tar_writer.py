"""`vqtrt decode --out x.tar`: the bytes of an unbroken job, wherever it broke off."""

import tarfile
from pathlib import Path

import pytest
from doubles import FakeEngine, FakeSource
from pipeline_jobs import encode as encode_images
from speech_doubles import STRIDE, FakeSpeech
from speech_jobs import LENGTHS
from speech_jobs import decode as decode_clips
from speech_jobs import encode as encode_clips

from vqtrt.audio import chunks
from vqtrt.data.images.open import open_images
from vqtrt.errors import VqtrtError
from vqtrt.formats import tar_writer
from vqtrt.formats.audio_codes import ClipCodes
from vqtrt.formats.codes import Codes
from vqtrt.formats.items import open_codes
from vqtrt.formats.shard_codes import read_clips, read_images
from vqtrt.formats.tar_writer import TarWriter
from vqtrt.images.decode import decode_codes
from vqtrt.images.tokenizer import ImageTokenizer


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_SAMPLES", 30 * STRIDE)
    monkeypatch.setattr(chunks, "CALL_SAMPLES", 36 * STRIDE)


@pytest.fixture(params=["images", "clips"])
def codes(request, tmp_path) -> Codes | ClipCodes:
    if request.param == "clips":
        encode_clips(FakeSpeech(LENGTHS), tmp_path / "codes.npy")
        return read_clips(tmp_path / "codes.npy")
    encode_images(FakeSource(14), tmp_path / "codes.npy")
    return read_images(tmp_path / "codes.npy")


def decode(codes: Codes | ClipCodes, out: Path, **options) -> int:
    if isinstance(codes, ClipCodes):
        return decode_clips(codes, out, speaker="ann", batch_size=2, **options)
    before = options.pop("before", lambda name, array: None)
    tokenizer = ImageTokenizer(FakeEngine(before=before), batch_size=3)
    return decode_codes(tokenizer, codes, out, workers=2, **options)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("codes"))


def count_of(path: Path) -> int:
    with tarfile.open(path) as tar:
        return len(tar.getmembers())


def crash_at(call: int):
    """What raises at a call of a graph."""
    calls = iter(range(call + 1))

    def before(*_) -> None:
        if next(calls) == call:
            raise RuntimeError("power cut")

    return before


def test_the_tar_has_the_files_of_the_folder(codes, tmp_path):
    count = decode(codes, tmp_path / "folder")
    assert decode(codes, tmp_path / "x.tar") == count
    with tarfile.open(tmp_path / "x.tar") as tar:
        members = tar.getmembers()
        assert len(members) == count
        for member in members:
            data = (tmp_path / "folder" / member.name).read_bytes()
            assert tar.extractfile(member).read() == data
            assert (member.mtime, member.uid, member.uname, member.mode) == (0, 0, "", 0o644)
    assert left(tmp_path) == ["folder", "x.tar"]


@pytest.mark.parametrize("call", [0, 1, 2, 3])
@pytest.mark.parametrize("seconds", [-1.0, 1e9])
def test_a_job_that_broke_off_is_continued(codes, tmp_path, monkeypatch, call, seconds):
    """With a commit after each file, and with none at all."""
    monkeypatch.setattr(tar_writer, "_COMMIT_SECONDS", seconds)
    decode(codes, tmp_path / "whole.tar")
    out = tmp_path / "x.tar"
    late = call * (14 if isinstance(codes, ClipCodes) else 1)  # the longest clip comes first
    with pytest.raises(RuntimeError) as caught:
        decode(codes, out, before=crash_at(late))
    kept = any("files are kept in" in note for note in getattr(caught.value, "__notes__", []))
    assert kept == (seconds < 0 and call > 0)
    ends = ("", ".jsonl") if kept else ()
    assert left(tmp_path) == ["whole.tar", *(f"x.tar.partial{end}" for end in ends)]
    counts: list[int] = []
    decode(codes, out, resume=True, resumed=counts.append)
    assert (counts[0] > 0) == kept
    assert out.read_bytes() == (tmp_path / "whole.tar").read_bytes()
    assert left(tmp_path) == ["whole.tar", "x.tar"]


def test_what_was_written_after_the_last_commit_is_cut_off(codes, tmp_path, monkeypatch):
    monkeypatch.setattr(tar_writer, "_COMMIT_SECONDS", -1.0)
    decode(codes, tmp_path / "whole.tar")
    whole = (tmp_path / "whole.tar").read_bytes()
    for torn in (b"", b'{"members": [1', b"\0\0\n", b'{"members": [10000], "bytes": 5}\n'):
        out = tmp_path / "x.tar"
        with pytest.raises(RuntimeError):
            decode(codes, out, before=crash_at(3 if isinstance(codes, Codes) else 30))
        with Path(f"{out}.partial").open("ab") as file:
            file.write(b"torn")
        with Path(f"{out}.partial.jsonl").open("ab") as file:
            file.write(torn)
        decode(codes, out, resume=True)
        assert out.read_bytes() == whole
        out.unlink()


def test_a_finished_tar_stays(codes, tmp_path):
    out = tmp_path / "x.tar"
    count = decode(codes, out)
    before, counts = out.stat().st_ino, []
    assert decode(codes, out, resume=True, resumed=counts.append) == count
    assert (counts, out.stat().st_ino) == ([count], before)
    decode(codes, out)
    assert out.stat().st_ino != before


def test_another_job_is_not_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_writer, "_COMMIT_SECONDS", -1.0)
    out = tmp_path / "x.tar"
    for count in (14, 13):
        encode_images(FakeSource(count), tmp_path / f"codes{count}.npy")
    one, other = (read_images(tmp_path / f"codes{count}.npy") for count in (14, 13))
    with pytest.raises(RuntimeError):
        decode(one, out, before=crash_at(2))
    with pytest.raises(VqtrtError, match=r"x\.tar\.partial: the codes changed since it was begun"):
        decode(other, out, resume=True)
    decode(one, out, resume=True)
    with pytest.raises(VqtrtError, match=r"x\.tar: the codes changed since it was begun"):
        decode(other, out, resume=True)
    decode(other, out)
    assert count_of(out) == 13
    for strange in (b"", b"no tar" * 200, bytes(2000)):
        out.write_bytes(strange)
        decode(one, out, resume=True)
        assert count_of(out) == 14


def test_one_writer_at_a_time(tmp_path):
    out = tmp_path / "x.tar"
    with TarWriter(out, {}, ["a"], resume=False):
        with pytest.raises(VqtrtError, match=r"x\.tar: another process is writing it"):
            TarWriter(out, {}, ["a"], resume=False)
        assert left(tmp_path) == ["x.tar.partial", "x.tar.partial.files", "x.tar.partial.jsonl"]


def test_a_full_disk(tmp_path, monkeypatch):
    out = tmp_path / "x.tar"

    def full(*_) -> int:
        raise OSError(28, "No space left on device")

    writer = TarWriter(out, {}, ["a"], resume=False)
    writer.path(0).write_bytes(b"x")
    writer.wrote([0])
    monkeypatch.setattr("vqtrt.formats.journal.os.write", full)
    with pytest.raises(VqtrtError, match="No space left"), writer:
        writer.finish()
    assert not out.exists()


def test_names_of_any_length_and_kind(tmp_path):
    names = ["é/ü.png", f"{'long' * 40}/{'er' * 80}.png", "a\udcff.png"]
    with TarWriter(tmp_path / "x.tar", {}, names, resume=False) as writer:
        for index in range(3):
            writer.path(index).write_bytes(b"x" * index)
        writer.wrote([2, 0, 1])
        writer.finish()
    with tarfile.open(tmp_path / "x.tar", errors="surrogateescape") as tar:
        assert [(m.name, m.size) for m in tar.getmembers()] == [
            (names[2], 2),
            (names[0], 0),
            (names[1], 1),
        ]


def test_what_was_decoded_is_encoded_again(tmp_path):
    encode_images(FakeSource(5), tmp_path / "codes.npy")
    decode(read_images(tmp_path / "codes.npy"), tmp_path / "x.tar")
    source = open_images(tmp_path / "x.tar")
    assert [item.name for item in source.items()] == [f"{n:06}.png" for n in range(5)]
    encode_images(source, tmp_path / "codes2.npy")
    assert len(open_codes(tmp_path / "codes2.npy")) == 5
