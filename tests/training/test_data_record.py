import json
import logging
import shutil
from pathlib import Path

import pytest

from vqtrt.data.source import Item
from vqtrt.errors import VqtrtError
from vqtrt.training.audio import SpeechTask, train_speech
from vqtrt.training.data_record import (
    DATA,
    DataRecord,
    describe_names,
    require_same_data,
    write_record,
)
from vqtrt.training.images import ImageTask

SIZES = {"a.png": 1, "b.png": 2, "c.png": 3}


def record(held_out: str = "b.png", **sizes: int) -> DataRecord:
    return describe_names(
        {**SIZES, **{f"{name}.png": size for name, size in sizes.items()}}, [held_out]
    )


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (record(d=4), "changed since the run was begun: 3 items then, 4 now; .*bring them back"),
        (describe_names({"a.png": 1, "b.png": 2, "d.png": 3}, ["b.png"]), "with other names"),
        (record(c=4), "the same names, but some files have another size"),
        (record("c.png"), "other items would be held out .*leave data.holdout and train.seed"),
    ],
)
def test_other_data_are_refused(tmp_path: Path, now: DataRecord, message: str) -> None:
    write_record(tmp_path, record())
    require_same_data(tmp_path, record())
    with pytest.raises(VqtrtError, match=message) as caught:
        require_same_data(tmp_path, now)
    assert "\n" not in str(caught.value)


def test_a_run_without_a_record_goes_on_with_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "vqtrt")
    require_same_data(tmp_path, record())
    assert "without a record of its data" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", '{"items": 3}', "\xff"])
def test_a_damaged_record_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / DATA).write_text(text, encoding="latin-1")
    with pytest.raises(VqtrtError, match=r"data\.json") as caught:
        require_same_data(tmp_path, record())
    assert "\n" not in str(caught.value)


def test_what_is_recorded_of_recordings(
    make_speech_config, speech_data, tmp_path, make_log
) -> None:
    data = shutil.copytree(speech_data, tmp_path / "data")
    config = make_speech_config(data)
    config = config.model_copy(update={"train": config.train.model_copy(update={"steps": 1})})
    train_speech(config, tmp_path / "run", make_log())
    kept = json.loads((tmp_path / "run" / DATA).read_text())
    assert kept["items"] == 24
    # The same names elsewhere are the same data.
    moved = data.rename(tmp_path / "moved")
    same = SpeechTask(make_speech_config(moved)).record
    require_same_data(tmp_path / "run", same)
    before = (tmp_path / "run/config.yaml").read_bytes()
    shutil.copy(moved / "ann/000.wav", moved / "ann/0000.wav")
    with pytest.raises(VqtrtError, match="24 items then, 25 now"):
        train_speech(make_speech_config(moved), tmp_path / "run", make_log(), resume=True)
    (moved / "ann/0000.wav").unlink()
    shutil.copy(moved / "ann/000.wav", moved / "ann/002.wav")
    with pytest.raises(VqtrtError, match="another size"):
        train_speech(make_speech_config(moved), tmp_path / "run", make_log(), resume=True)
    assert (tmp_path / "run/config.yaml").read_bytes() == before


def test_what_is_recorded_of_images(make_config) -> None:
    task = ImageTask(make_config())
    assert task.record.items == 200
    assert task.record.held_out_sha256 == ImageTask(make_config()).record.held_out_sha256
    assert isinstance(task.items.held_out[0], Item)
