"""Shards of images and of clips: the same bytes, however the work is divided or broken off."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from doubles import FakeSource, write_pictures
from doubles import shard_files as files
from pipeline_jobs import encode as encode_images
from speech_doubles import FakeSpeech
from speech_jobs import encode as encode_clips

from vqtrt.data.images.folder import ImageFolder
from vqtrt.data.several import SeveralSources
from vqtrt.errors import ImageError, VqtrtError
from vqtrt.formats.audio_codes import read_clip_codes
from vqtrt.formats.codes import read_codes
from vqtrt.formats.shard_codes import ShardedCodes, complete_shards, merge, read_clips, read_images
from vqtrt.formats.shards import done_shards, lines_path, read_job, rows_path

LENGTHS = [60, 900, 7, 60, 64, 300, 1, 145, 144, 143, 33]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    encode_images(FakeSource(23, [4, 6]), tmp_path / "whole", on_error="skip", shard_size=5)
    return tmp_path / "whole"


def test_a_folder_has_the_files_that_the_docs_name(whole):
    assert list(files(whole)) == [
        "index.json",
        "job.json",
        *(f"shards/{n:06}.{end}" for n in range(5) for end in ("jsonl", "npy")),
    ]
    job = json.loads((whole / "job.json").read_text())
    assert (job["format_version"], job["shard_size"]) == (1, 5)
    assert job["parts"] == [{"items": 23, "name": "fake", "sha256": job["parts"][0]["sha256"]}]
    lines = [json.loads(line) for line in (whole / "shards/000000.jsonl").read_text().splitlines()]
    assert lines[0] == ["000000.png", -1]
    assert lines[4]["reject"] == "000004.png"
    assert (lines[5]["shard"], lines[5]["rows"], lines[5]["rejected"]) == (0, 4, 1)


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 16}, {"batch_size": 64}])
def test_the_bytes_do_not_depend_on_workers_or_batches(whole, tmp_path, options):
    source = FakeSource(23, [4, 6])
    encode_images(source, tmp_path / "other", on_error="skip", shard_size=5, **options)
    assert files(tmp_path / "other") == files(whole)


@pytest.mark.parametrize("turns", [3, 20])
def test_jobs_that_share_the_shards_write_the_bytes_of_one(whole, tmp_path, turns):
    for turn in reversed(range(turns)):
        result = encode_images(
            FakeSource(23, [4, 6]),
            tmp_path / "shared",
            on_error="skip",
            shard_size=5,
            turn=(turn, turns),
        )
        mine = [n for n in range(5) if n % turns == turn]
        assert result.rows + result.rejected == sum(min(5, 23 - 5 * n) for n in mine)
    assert files(tmp_path / "shared") == files(whole)


def test_a_plan_comes_first_and_changes_nothing(whole, tmp_path):
    out = tmp_path / "planned"
    encode_images(FakeSource(23, [4, 6]), out, shard_size=5, plan=True)
    assert list(files(out)) == ["job.json"]
    encode_images(FakeSource(23, [4, 6]), out, on_error="skip")
    assert files(out) == files(whole)


@pytest.mark.parametrize("stop", [0, 3, 11, 22])
def test_the_same_call_continues_a_job_that_broke_off(whole, tmp_path, stop):
    read = []

    def crash(item):
        if item.key == stop:
            raise RuntimeError

    out = tmp_path / "broken"
    with pytest.raises(RuntimeError) as caught:
        encode_images(FakeSource(23, [4, 6], crash), out, on_error="skip", shard_size=5)
    kept = len(done_shards(out, read_job(out)))
    assert kept <= stop // 5
    notes = getattr(caught.value, "__notes__", [])
    assert [f"{kept} shards are kept" in note for note in notes] == [True] * bool(kept)
    source = FakeSource(23, [4, 6], lambda item: read.append(item.key))
    result = encode_images(source, out, on_error="skip")
    assert sorted(read) == list(range(5 * kept, 23))
    assert (result.rows, result.rejected, result.resumed_at) == (21, 2, 5 * kept)
    assert result.rejected_kinds == {".png: bad": 2}
    assert files(out) == files(whole)


def test_a_job_that_is_done_reads_nothing_again(whole):
    before, read = files(whole), []
    source = FakeSource(23, [4, 6], lambda item: read.append(item.key))
    result = encode_images(source, whole, on_error="skip")
    assert (result.rows, result.rejected, result.resumed_at, read) == (21, 2, 23, [])
    assert files(whole) == before


def test_a_second_writer_of_the_same_shards_does_no_harm(whole, tmp_path):
    """Two jobs on the same folder: each finds what the other has, or renames the same bytes."""
    out = tmp_path / "two"

    def other(item):
        if item.key == 12:
            encode_images(FakeSource(23, [4, 6]), out, on_error="skip")

    encode_images(FakeSource(23, [4, 6], other), out, on_error="skip", shard_size=5)
    assert files(out) == files(whole)


def test_clips_are_sharded_in_the_same_way(tmp_path):
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    encode_clips(FakeSpeech(LENGTHS, [3]), whole, on_error="skip", shard_size=4)
    for turn in (1, 0):
        encode_clips(
            FakeSpeech(LENGTHS, [3]),
            shared,
            on_error="skip",
            shard_size=4,
            turn=(turn, 2),
            batch_size=7,
        )
    assert files(shared) == files(whole)
    encode_clips(FakeSpeech(LENGTHS, [3]), tmp_path / "one.npy", on_error="skip")
    one, codes = read_clip_codes(tmp_path / "one.npy"), ShardedCodes(whole)
    assert len(codes) == len(one) == len(LENGTHS) - 1
    for index in (*range(len(one)), -1):
        np.testing.assert_array_equal(codes[index], one.clip(index % len(one)))
    assert [len(clip) for clip in codes[2:5]] == one.lengths()[2:5]
    read = read_clips(whole)
    assert (read.files, read.samples, read.offsets) == (one.files, one.samples, one.offsets)
    assert (read.labels, read.rejected) == (one.labels, one.rejected)
    assert merge(whole, tmp_path / "merged.npy") == (10, 1)
    assert (tmp_path / "merged.npy").read_bytes() == (tmp_path / "one.npy").read_bytes()


def test_shards_hold_what_one_file_holds(whole, tmp_path):
    encode_images(FakeSource(23, [4, 6]), tmp_path / "one.npy", on_error="skip")
    one, codes = read_codes(tmp_path / "one.npy"), ShardedCodes(whole)
    rows = np.asarray(one.codes)
    assert len(codes) == len(one.codes) == 21
    for part in (
        slice(None),
        slice(3, 17),
        slice(4, 5),
        slice(9, 2),
        slice(-3, None),
        slice(2, 20, 3),
    ):
        np.testing.assert_array_equal(codes[part], rows[part])
    for index in (0, 4, 20, -1, -21):
        np.testing.assert_array_equal(codes[index], rows[index])
    for index in (21, -22):
        with pytest.raises(IndexError):
            codes[index]
    for start in (0, 3, 4, 5, 20, 21):
        names = tuple(name for name, _ in codes.items(start))
        assert names == one.files[start:]
    read = read_images(whole)
    assert (read.files, read.labels, read.rejected) == (one.files, one.labels, one.rejected)
    assert merge(whole, tmp_path / "merged.npy", check=True) == (21, 2)
    merged = read_codes(tmp_path / "merged.npy")
    np.testing.assert_array_equal(merged.codes, rows)
    assert (merged.files, merged.rejected) == (one.files, one.rejected)


def test_a_shard_lies_within_one_folder(tmp_path):
    folders = [write_pictures(tmp_path / name, *(f"{n}.png" for n in range(7))) for name in "ab"]
    source = SeveralSources([str(f) for f in folders], [ImageFolder(f) for f in folders])
    encode_images(source, tmp_path / "out", shard_size=5)
    job = read_job(tmp_path / "out")
    assert [part.items for part in job.parts] == [7, 7]
    assert [shard[1:] for shard in job.shards] == [(0, 0, 5), (0, 5, 7), (1, 0, 5), (1, 5, 7)]
    assert [name for name, _ in ShardedCodes(tmp_path / "out").items()] == [
        item.name for item in source.items()
    ]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pics", *(f"{n}.png" for n in range(9)))


def encode_half(pictures: Path) -> Path:
    """The first of three shards, with the error of a file in the second."""
    out, broken = pictures.parent / "out", pictures / "4.png"
    good = broken.read_bytes()
    broken.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"4\.png.*1 shards are kept in"):
        encode_images(ImageFolder(pictures), out, shard_size=3)
    broken.write_bytes(good)
    return out


def test_a_file_that_was_mended_does_not_hinder(pictures):
    out = encode_half(pictures)
    assert encode_images(ImageFolder(pictures), out).rows == 9


def test_files_that_changed_since_their_shard_was_made_are_an_error(pictures):
    out = encode_half(pictures)
    write_pictures(pictures, "1.png", size=(40, 40))
    with pytest.raises(VqtrtError, match=r"files 0 to 2 changed since shard 0.*000000\.jsonl"):
        encode_images(ImageFolder(pictures), out)
    lines_path(out, 0).unlink()
    encode_images(ImageFolder(pictures), out)
    write_pictures(pictures, "8.png", size=(40, 40))
    with pytest.raises(VqtrtError, match="files 6 to 8 changed since shard 2"):
        encode_images(ImageFolder(pictures), out)


def test_a_list_of_files_that_changed_is_an_error(pictures):
    out = encode_half(pictures)
    write_pictures(pictures, "10.png")
    with pytest.raises(VqtrtError, match="pics: its list of files changed since"):
        encode_images(ImageFolder(pictures), out)


def test_other_settings_are_an_error(pictures):
    out = encode_half(pictures)
    with pytest.raises(VqtrtError, match="3 items per shard, not 4"):
        encode_images(ImageFolder(pictures), out, shard_size=4)
    from doubles import FakeEngine

    with pytest.raises(VqtrtError, match="another codebook_size"):
        encode_images(ImageFolder(pictures), out, engine=FakeEngine(codebook_size=100))
    with pytest.raises(VqtrtError, match="pics: holds other files"):
        encode_images(ImageFolder(pictures), pictures)
    two = SeveralSources([str(pictures), "x"], [ImageFolder(pictures), FakeSource(3)])
    with pytest.raises(VqtrtError, match="1 folders or files, not 2"):
        encode_images(two, out)


def test_nothing_that_can_be_read(tmp_path):
    with pytest.raises(VqtrtError, match="none of its 3 files is an image"):
        encode_images(FakeSource(3, range(3)), tmp_path / "out", on_error="skip", shard_size=2)
    with pytest.raises(VqtrtError, match="none of its 0 files is an image"):
        encode_images(FakeSource(0), tmp_path / "none")


def damage(path: Path, change: str) -> None:
    data = path.read_bytes()
    if change == "gone":
        path.unlink()
    elif change == "cut":
        path.write_bytes(data[:-3])
    elif change == "flipped":
        at = 4 if path.suffix == ".jsonl" else len(data) - 1
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("change", ["gone", "cut", "flipped", "empty"])
@pytest.mark.parametrize("which", [0, 1])
def test_merge_names_a_damaged_shard(whole, change, which):
    path = lines_path(whole, 2) if which else rows_path(whole, read_job(whole), 2)
    damage(path, change)
    listed = which == 1 and change != "flipped"
    with pytest.raises(VqtrtError, match=r"missing \(2\)" if listed else "shard 2 has"):
        merge(whole, check=True)


def test_shards_of_another_job_are_missing(whole, tmp_path):
    encode_images(FakeSource(24, [4, 6]), tmp_path / "other", on_error="skip", shard_size=5)
    for name in ("000001.npy", "000001.jsonl"):
        (whole / "shards" / name).write_bytes((tmp_path / "other/shards" / name).read_bytes())
    with pytest.raises(VqtrtError, match=r"1 of 5 shards are missing \(1\)"):
        complete_shards(whole)


def test_codes_of_the_other_kind_are_an_error(whole, tmp_path):
    encode_clips(FakeSpeech(LENGTHS), tmp_path / "clips")
    with pytest.raises(VqtrtError, match="clips: holds codes of audio"):
        read_images(tmp_path / "clips")
    with pytest.raises(VqtrtError, match="whole: holds codes of images"):
        read_clips(whole)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format_version": 2}', '{"format_version": 1, "parts": []}']
)
def test_a_damaged_job_is_named(whole, text):
    (whole / "job.json").write_text(text)
    with pytest.raises(VqtrtError, match=r"job\.json"):
        read_job(whole)


def test_too_many_shards_are_an_error(whole):
    job = read_job(whole)
    part = job.parts[0].model_copy(update={"items": 10**9})
    huge = job.model_copy(update={"parts": (part,), "shard_size": 5})
    with pytest.raises(VqtrtError, match=r"200,000,000 shards.*--shard-size"):
        _ = huge.shards


def test_progress_counts_what_was_done_before(whole, tmp_path):
    calls: list[tuple[int, int]] = []
    encode_images(
        FakeSource(23, [4, 6]), whole, on_error="skip", progress=lambda *c: calls.append(c)
    )
    assert calls == [(23, 23)]
    out = tmp_path / "new"
    calls.clear()
    encode_images(
        FakeSource(9), out, shard_size=5, batch_size=2, progress=lambda *c: calls.append(c)
    )
    assert [done for done, _ in calls] == [0, 2, 4, 5, 7, 9]
    assert set(itertools.chain(total for _, total in calls)) == {9}


def test_names_that_are_not_utf8_are_kept(tmp_path):
    source, root = FakeSource(5), "data\udcff"
    for _ in range(2):
        encode_images(source, tmp_path / "out", root=root, shard_size=2)
    job = read_job(tmp_path / "out")
    assert (job.header.root, job.parts[0].name) == (root, root)


@pytest.mark.parametrize(
    "line", ["[]", '["a", -1, 7]', '["a", "b"]', "[7, -1]", "{}", "7", "nonsense", '"text"']
)
def test_a_line_of_a_stranger_is_named(whole, line):
    path = lines_path(whole, 1)
    _, *others = path.read_text().splitlines()
    path.write_text("\n".join([line, *others, ""]))
    with pytest.raises(VqtrtError, match=r"shard 1 has a line that no item has; remove .*000001"):
        list(ShardedCodes(whole).items())


def test_a_pipe_is_not_waited_for(whole):
    path = lines_path(whole, 1)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(VqtrtError, match=r"shard 1 has a \.jsonl that cannot be read .*a pipe"):
        merge(whole)


def test_a_job_that_was_killed_before_it_began_can_be_run_again(whole, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / f".job.json.01234567-{2**22 + 1}-89abcdef.partial").touch()
    encode_images(FakeSource(23, [4, 6]), out, on_error="skip", shard_size=5)
    assert {k: v for k, v in files(out).items() if not k.startswith(".")} == files(whole)


def test_a_share_reads_its_own_items_alone(tmp_path):
    encode_images(FakeSource(23), tmp_path / "out", shard_size=5, plan=True)
    for turn in range(3):
        read: list[int] = []
        source = FakeSource(23, before=lambda item, read=read: read.append(item.key))
        encode_images(source, tmp_path / "out", turn=(turn, 3))
        shards = [n for n in range(5) if n % 3 == turn]
        assert sorted(read) == [key for n in shards for key in range(5 * n, min(5 * n + 5, 23))]


def test_numbers_are_asked_for_one_by_one(whole, tmp_path):
    """Whoever hands them out sees that a shard is in place when the next one is asked for."""
    out, seen = tmp_path / "out", []

    def numbers():
        for number in (3, 0, 4, 1, 2):
            yield number
            seen.append(set(done_shards(out, read_job(out))))

    result = encode_images(
        FakeSource(23, [4, 6]), out, on_error="skip", shard_size=5, numbers=numbers()
    )
    assert seen == [{3}, {0, 3}, {0, 3, 4}, {0, 1, 3, 4}, {0, 1, 2, 3, 4}]
    assert (result.rows, result.rejected) == (21, 2)
    assert files(out) == files(whole)
