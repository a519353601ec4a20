"""`vqtrt encode --out FOLDER`, `vqtrt plan` and `vqtrt merge`, of images and of audio."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from cli_speech_runs import copy_talk
from doubles import tree, vqtrt, write_pictures
from range_server import serving
from remote_files import write_files


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)


@pytest.fixture
def pictures(tiny_run, monkeypatch) -> None:
    monkeypatch.setenv("VQTRT_MODEL", str(tiny_run))
    write_pictures(Path("pics"), *(f"{name}/{n}.png" for name in "xy" for n in range(4)))


@pytest.mark.usefixtures("pictures")
def test_a_job_array_of_images(capfd):
    assert vqtrt("plan", "pics", "-o", "codes", "--shard-size", 3, "--json") == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {"out": "codes", "items": 8, "shards": 3}
    assert "encode them with --shard I/N" in err
    assert vqtrt("merge", "codes") == 1
    assert "3 of 3 shards are missing (0, 1, 2)" in capfd.readouterr().err
    for turn in (1, 0):
        assert vqtrt("encode", "pics", "-o", "codes", "--shard", f"{turn}/2") == 0
    assert "wrote 5 rows to codes" in capfd.readouterr().err
    assert vqtrt("encode", "pics", "-o", "codes", "--json") == 0
    out, err = capfd.readouterr()
    assert "codes is complete already: 8 rows; nothing was left to do" in err
    assert json.loads(out)["rows"] == 8
    assert vqtrt("merge", "codes", "--check", "--to", "merged.npy", "--json") == 0
    assert json.loads(capfd.readouterr().out) == {"rows": 8, "rejected": 0, "out": "merged.npy"}
    assert vqtrt("encode", "pics", "-o", "one.npy") == 0
    np.testing.assert_array_equal(np.load("merged.npy"), np.load("one.npy"))
    for codes in ("codes", "one.npy"):
        assert vqtrt("decode", codes, "-o", f"back-{Path(codes).stem}") == 0
    assert tree(Path("back-codes")) == tree(Path("back-one"))


def test_recordings(tiny_speech, speech_data, capfd, monkeypatch):
    monkeypatch.setenv("VQTRT_MODEL", str(tiny_speech))
    talk = copy_talk(speech_data)
    assert vqtrt("encode", talk, "-o", "codes", "--shard-size", 2) == 0
    assert vqtrt("encode", talk, "-o", "one.npy") == 0
    assert vqtrt("merge", "codes", "--to", "merged.npy") == 0
    assert Path("merged.npy").read_bytes() == Path("one.npy").read_bytes()
    for codes in ("codes", "one.npy"):
        assert vqtrt("decode", codes, "-o", f"back-{Path(codes).stem}") == 0
    assert tree(Path("back-codes")) == tree(Path("back-one"))
    assert "is complete" in capfd.readouterr().err


@pytest.mark.usefixtures("pictures")
def test_a_folder_may_have_a_version_in_its_name():
    assert vqtrt("encode", "pics", "-o", "codes-v1.0") == 0
    assert Path("codes-v1.0/job.json").is_file()


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("encode pics -o c.npy --shard-size 3", "c.npy: is one file; shards need a folder"),
        ("encode pics -o c.npy --shard 0/2", "c.npy: is one file; shards need a folder"),
        ("encode pics -o codes --shard 2/2", "--shard 2/2: expected I/N with I from 0 to N - 1"),
        ("encode pics -o codes --shard 1", "--shard 1: expected I/N"),
        ("encode pics -o codes --shard 0/0", "--shard 0/0: expected I/N"),
        ("encode pics -o codes.h5", "codes.h5: --out must end in .npy, or name a folder"),
        ("encode pics -o pics", "pics: holds other files; name a new folder"),
        ("encode pics -o pics/codes", "whose files are encoded"),
        ("plan pics -o c.npy", "c.npy: is one file; shards need a folder"),
        ("merge pics", "pics: holds no job.json"),
        ("merge codes --to x.txt", "x.txt: --to must end in .npy"),
    ],
)
def test_what_cannot_be(options, message, capfd):
    before = tree(Path())
    assert vqtrt(*options.split()) == 1
    assert message in capfd.readouterr().err
    assert tree(Path()) == before


@pytest.mark.usefixtures("pictures")
def test_shards_of_parquet(capfd):
    for form in ("npy", "parquet"):
        assert vqtrt("encode", "pics", "-o", form, "--shard-size", 3, "--format", form) == 0
        assert vqtrt("decode", form, "-o", f"back-{form}") == 0
    assert tree(Path("back-npy")) == tree(Path("back-parquet"))
    assert vqtrt("info", "parquet") == 0
    assert vqtrt("merge", "parquet", "--check", "--to", "codes.jsonl") == 0
    assert vqtrt("plan", "pics", "-o", "planned", "--shard-size", 3, "--format", "parquet") == 0
    assert Path("planned/job.json").read_bytes() == Path("parquet/job.json").read_bytes()
    capfd.readouterr()
    assert vqtrt("encode", "pics", "-o", "parquet", "--format", "npy") == 1
    assert "parquet: has shards of format parquet, not npy" in capfd.readouterr().err
    assert vqtrt("encode", "pics", "-o", "one.npy", "--format", "parquet") == 1
    assert "one.npy: is one file; shards need a folder" in capfd.readouterr().err


@pytest.mark.usefixtures("pictures")
def test_nothing_connects_to_a_network(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("connects")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(f"socket.socket.{name}", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    assert vqtrt("encode", "pics", "-o", "codes", "--shard-size", 3) == 0
    assert vqtrt("merge", "codes", "--check", "--to", "codes.parquet") == 0
    assert vqtrt("decode", "codes", "-o", "back.tar") == 0


@pytest.mark.usefixtures("pictures")
def test_views(tiny_run, capfd):
    assert vqtrt("plan", "pics", "-o", "planned", "--views", "flip") == 0
    for out in ("planned", "codes", "codes.npy"):
        assert vqtrt("encode", "pics", "-o", out, "--views", "flip") == 0
    shutil.rmtree("planned/plan")
    assert tree(Path("planned")) == tree(Path("codes"))
    assert np.load("codes/shards/000000.npy").shape == (8, 2, 4, 4)
    assert np.load("codes.npy").shape == (8, 2, 4, 4)
    assert vqtrt("info", "codes") == 0
    capfd.readouterr()
    assert vqtrt("encode", "pics", "-o", "codes") == 1
    assert "another preprocessing" in capfd.readouterr().err
    for arguments in (
        ("decode", "codes.npy", "-o", "back"),
        ("train-prior", "--data", "codes.npy", "--set", "train.steps=1"),
    ):
        assert vqtrt(*arguments, "-m", tiny_run) == 1
        assert "has 2 views of each image (flip)" in capfd.readouterr().err


@pytest.mark.usefixtures("pictures")
def test_images_behind_a_url(tmp_path, capfd):
    with serving(write_files(tmp_path / "served")) as server:
        url = f"{server.url}/pics.tar?key=secret"
        assert vqtrt("encode", url, "-o", "far", "--shard-size", 9) == 0
        assert vqtrt("encode", "served/pics.tar", "-o", "near", "--shard-size", 9) == 0
        for name in ("000000.npy", "000002.npy"):
            assert Path("far/shards", name).read_bytes() == Path("near/shards", name).read_bytes()
        assert vqtrt("encode", url, "-o", "one.npy") == 0
        assert vqtrt("eval", f"{server.url}/pics.parquet") == 0
        out, err = capfd.readouterr()
        assert vqtrt("train", "shapes", "--data", url) == 1
    assert "secret" not in out + err
    out, err = capfd.readouterr()
    assert "pics.tar: training reads it in random order; copy it to a disk" in err
    assert "secret" not in out + err
    for path in (*Path("far").rglob("*.json*"), Path("one.json")):
        assert "secret" not in path.read_text()


def test_recordings_behind_a_url(tiny_speech, speech_data, tmp_path, monkeypatch):
    monkeypatch.setenv("VQTRT_MODEL", str(tiny_speech))
    (tmp_path / "served").mkdir()
    folder = copy_talk(speech_data)
    with tarfile.open(tmp_path / "served/talk.tar", "w") as tar:
        for path in sorted(folder.rglob("*.wav")):
            tar.add(path, path.relative_to(folder))
    with serving(tmp_path / "served") as server:
        assert vqtrt("encode", f"{server.url}/talk.tar", "-o", "far") == 0
    assert vqtrt("encode", "served/talk.tar", "-o", "near") == 0
    assert Path("far/shards/000000.npy").read_bytes() == Path("near/shards/000000.npy").read_bytes()
