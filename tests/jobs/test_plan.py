"""What `vqtrt plan` keeps of folders, and how files of a list become parts."""

from functools import partial
from pathlib import Path

import pytest
from doubles import shard_files as files
from doubles import write_pictures
from pipeline_jobs import encode as encode_images

from vqtrt.data import folder
from vqtrt.data.images.folder import ImageFile, ImageFolder
from vqtrt.data.several import SeveralSources
from vqtrt.errors import ImageError, VqtrtError
from vqtrt.formats.shard_codes import ShardedCodes
from vqtrt.formats.shards import read_job


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pics", *(f"{n}.png" for n in range(9)))


@pytest.fixture
def folder_walks(monkeypatch) -> list[str]:
    """The roots that were walked."""
    walked: list[str] = []
    real = folder.walk

    def walk(root, judge, counts=None):
        walked.append(root)
        return real(root, judge, counts)

    monkeypatch.setattr(folder, "walk", walk)
    return walked


@pytest.mark.parametrize("several", [False, True])
def test_jobs_that_share_the_shards_read_the_plan_and_not_the_folder(
    pictures, tmp_path, folder_walks, several
):
    other = write_pictures(tmp_path / "other", "a/1.png", "a/2.png")
    (other / "a/2.png").rename(other / "a/\udcff.png")

    def source():
        one = ImageFolder(pictures)
        return SeveralSources([str(pictures), str(other)], [one, ImageFolder(other)])

    encode = partial(encode_images, shard_size=3)
    make = source if several else lambda: ImageFolder(other)
    encode(make(), tmp_path / "whole")
    encode(make(), tmp_path / "out", plan=True)
    (tmp_path / "out/plan/000000.jsonl").stat()
    folder_walks.clear()
    for turn in (1, 0):
        encode(make(), tmp_path / "out", turn=(turn, 2))
    assert folder_walks == []
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_only_a_job_of_its_own_sees_files_that_came_after_the_plan(pictures, tmp_path):
    out = tmp_path / "out"
    encode_images(ImageFolder(pictures), out, shard_size=3, plan=True)
    write_pictures(pictures, "10.png")
    assert encode_images(ImageFolder(pictures), out, turn=(0, 3)).rows == 3
    with pytest.raises(VqtrtError, match="pics: its list of files changed since"):
        encode_images(ImageFolder(pictures), out)


def test_a_file_that_went_after_the_plan_is_named(pictures, tmp_path):
    out = tmp_path / "out"
    encode_images(ImageFolder(pictures), out, shard_size=3, plan=True)
    (pictures / "4.png").unlink()
    with pytest.raises(ImageError, match=r"4\.png"):
        encode_images(ImageFolder(pictures), out, turn=(1, 3))


@pytest.mark.parametrize("line", ["[]", '["a", -1, 7]', '["a", "b", null]', "nonsense", "[" * 9999])
def test_a_damaged_plan_is_named(pictures, tmp_path, line):
    encode_images(ImageFolder(pictures), tmp_path / "out", shard_size=3, plan=True)
    path = tmp_path / "out/plan/000000.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(VqtrtError, match=r"000000\.jsonl: has a line that is no item; remove"):
        encode_images(ImageFolder(pictures), tmp_path / "out", turn=(1, 3))
    path.write_text('["0.png", -1, null]\n')
    with pytest.raises(VqtrtError, match="pics: its list of files changed"):
        encode_images(ImageFolder(pictures), tmp_path / "out", turn=(1, 3))
    path.unlink()
    assert encode_images(ImageFolder(pictures), tmp_path / "out", turn=(1, 3)).rows == 3


def test_files_of_a_list_share_shards(pictures, tmp_path):
    paths = [str(pictures / f"{n}.png") for n in range(7)]
    every = [*paths[:5], str(pictures), *paths[5:]]
    source = SeveralSources(
        every,
        [ImageFolder(Path(p)) if p == str(pictures) else ImageFile(Path(p)) for p in every],
    )
    encode_images(source, tmp_path / "out", shard_size=3)
    job = read_job(tmp_path / "out")
    assert [part.items for part in job.parts] == [5, 9, 2]
    assert job.parts[0].name == f"{paths[0]} and 4 more"
    assert len(job.shards) == 2 + 3 + 1
    assert [name for name, _ in ShardedCodes(tmp_path / "out").items()] == [
        item.name for item in source.items()
    ]
