"""What never ends, in every place where a user's path is opened: refused at once."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import write_speech
from doubles import vqtrt, write_pictures

from vqtrt.formats.bundle import INFO
from vqtrt.formats.codes import read_codes

KINDS = ["pipe", "zero", "link to a pipe"]


@pytest.fixture(params=KINDS)
def endless(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Puts something without an end at a path."""

    def put(path: Path) -> None:
        path.unlink(missing_ok=True)
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "zero":
            path.symlink_to("/dev/zero")
        else:
            os.mkfifo(path.with_name("the-pipe"))
            path.symlink_to("the-pipe")

    return put


@pytest.mark.parametrize("kind", ["images", "speech"])
def test_two_rejects_of_a_folder(
    request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str], tmp_path: Path, kind: str
) -> None:
    suffix = {"images": "png", "speech": "wav"}[kind]
    run = request.getfixturevalue({"images": "tiny_run", "speech": "tiny_speech"}[kind])
    data = tmp_path / "data"
    if kind == "images":
        write_pictures(data, "s/a.png")
    else:
        write_speech(data, 1)
    folder = next(path for path in data.iterdir() if path.is_dir())
    (folder / f"y.{suffix}").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    (folder / f"z.{suffix}").symlink_to(tmp_path / "pipe")
    args = ["encode", data, "--out", tmp_path / "codes.npy", "--model", run]
    assert vqtrt(*args) == 1
    assert f"y.{suffix}: " in capfd.readouterr().err
    assert vqtrt(*args, "--on-error", "skip", "--json") == 0
    figures = json.loads(capfd.readouterr().out)
    assert (figures["rows"], figures["rejected"]) == (1, 2)
    assert sum(figures["rejected_kinds"].values()) == 2


def refused(capfd: pytest.CaptureFixture[str], *args: object) -> None:
    """A line of error, and no wait."""
    assert vqtrt(*args) == 1
    *_, line = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.npz:images", "x.bin", "x.tar.gz", "x.jpg"])
def test_data_sets(
    capfd: pytest.CaptureFixture[str],
    tiny_bundle: Path,
    tmp_path: Path,
    endless: Callable[[Path], None],
    name: str,
) -> None:
    endless(tmp_path / name.partition(":")[0])
    out = tmp_path / "codes.npy"
    refused(capfd, "encode", tmp_path / name, "--out", out, "--model", tiny_bundle)
    assert not out.exists()


def test_a_folder_of_cifar(
    capfd: pytest.CaptureFixture[str],
    tiny_bundle: Path,
    tmp_path: Path,
    endless: Callable[[Path], None],
) -> None:
    folder = tmp_path / "cifar"
    folder.mkdir()
    endless(folder / "test_batch.bin")
    args = ["--out", tmp_path / "codes.npy", "--model", tiny_bundle, "--split", "test"]
    refused(capfd, "encode", folder, *args)


def test_codes_and_their_json(
    capfd: pytest.CaptureFixture[str],
    tiny_bundle: Path,
    tmp_path: Path,
    endless: Callable[[Path], None],
) -> None:
    out = tmp_path / "codes.npy"
    assert vqtrt("encode", "shapes:3", "--out", out, "--model", tiny_bundle) == 0
    assert len(read_codes(out).files) == 3
    endless(out.with_suffix(".json"))
    refused(capfd, "decode", out, "--out", tmp_path / "back", "--model", tiny_bundle)
    refused(capfd, "info", out)
    out.with_suffix(".json").unlink()
    out.unlink()
    (tmp_path / "the-pipe").unlink(missing_ok=True)
    endless(out)
    refused(capfd, "decode", out, "--out", tmp_path / "back", "--model", tiny_bundle)


def test_settings(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, endless: Callable[[Path], None]
) -> None:
    endless(tmp_path / "recipe.yaml")
    refused(capfd, "train", tmp_path / "recipe.yaml", "--out", tmp_path / "run")


def test_files_of_a_bundle(
    capfd: pytest.CaptureFixture[str],
    tiny_bundle: Path,
    tmp_path: Path,
    endless: Callable[[Path], None],
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    args = ["encode", "shapes:3", "--out", tmp_path / "codes.npy", "--model", bundle]
    endless(bundle / "encoder.onnx")
    refused(capfd, *args)
    (bundle / "the-pipe").unlink(missing_ok=True)
    endless(bundle / INFO)
    refused(capfd, *args)
