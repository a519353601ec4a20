import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from doubles import FakeSource, write_pictures
from safetensors.torch import load_file
from speech_doubles import FakeSpeech

from vqtrt.config.audio import SpeechDataConfig
from vqtrt.config.images import DataConfig
from vqtrt.config.location import find_model
from vqtrt.data.source import Item
from vqtrt.errors import AudioError, ImageError, VqtrtError
from vqtrt.training import images as image
from vqtrt.training.audio import train_speech
from vqtrt.training.audio_batches import CachedClips, Crops, CropShape, training_crops
from vqtrt.training.images import train
from vqtrt.training.loader import PatchedSource, training_batches
from vqtrt.training.prior_start import plan_prior
from vqtrt.training.skipped import Skipped

ITEMS = [Item(f"{i}.wav", -1, i) for i in range(6)]


def reader(bad: set[int]):
    def read(item: Item) -> int:
        if item.key in bad:
            raise AudioError(f"{item.name}: bad; remove it")
        return item.key * 10

    return read


def test_the_next_item_that_can_be_read_takes_the_place() -> None:
    skipped = Skipped("skip", ITEMS)
    read = reader({1, 2, 5})
    assert [skipped.read(item, read)[1] for item in ITEMS] == [0, 30, 30, 30, 40, 0]
    # The same in any order, and from many threads.
    again = Skipped("skip", ITEMS)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda item: again.read(item, read)[0].key, ITEMS[::-1] * 20))
    assert found == [0, 4, 3, 3, 3, 0] * 20
    assert len(skipped) == len(again) == 3


def test_stop_raises_what_was_wrong() -> None:
    with pytest.raises(AudioError, match=r"1\.wav: bad"):
        Skipped("stop", ITEMS).read(ITEMS[1], reader({1}))


def test_nothing_that_can_be_read() -> None:
    message = r"all 6 files to train on cannot be read, such as 2.wav \(2.wav: bad; remove it\)"
    with pytest.raises(VqtrtError, match=message):
        Skipped("skip", ITEMS).read(ITEMS[2], reader(set(range(6))))


def test_each_is_told_and_listed_once(tmp_path: Path) -> None:
    told: list[str] = []
    for bad in ({1}, {1, 4}):  # the second is a run that is resumed
        skipped = Skipped("skip", ITEMS)
        skipped.read(ITEMS[1], reader(bad))
        skipped.begin(tmp_path, told.append)
        for item in ITEMS * 2:
            skipped.read(item, reader(bad))
    assert told == [f"skipped {i}.wav: {i}.wav: bad; remove it" for i in (1, 4)]
    path = tmp_path / "skipped.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"file": "1.wav", "reason": "1.wav: bad; remove it"}
    assert [line["file"] for line in lines] == ["1.wav", "4.wav"]
    with path.open("a") as file:
        file.write('{"file": "5.w')  # torn by a crash
    assert skipped.summary() == f"skipped 2 files that cannot be read; see {path}"
    good = Skipped("skip", ITEMS)
    good.begin(tmp_path / "none", told.append)
    assert good.summary() is None


def test_a_list_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "skipped.jsonl").mkdir()
    with pytest.raises(VqtrtError, match=r"skipped\.jsonl: cannot be read \(Is a directory\)"):
        Skipped("skip", ITEMS).begin(tmp_path, print)


def test_no_other_image_moves() -> None:
    config = DataConfig.model_validate({"preprocessing": {"height": 16, "width": 16}})

    def batches(bad: tuple[int, ...], steps: range = range(6)) -> list[np.ndarray]:
        source = FakeSource(20, bad)
        items = list(source.items())
        patched = PatchedSource(source, Skipped("skip", items))
        made = training_batches(patched, items, config, batch_size=4, seed=1, steps=steps)
        return [images.copy() for images in made]

    whole, patched = batches(()), batches((3, 4))
    source = FakeSource(20)
    three, four, five = (source.read(item) for item in list(source.items())[3:6])
    for one, other in zip(whole, patched, strict=True):
        for a, b in zip(one, other, strict=True):
            odd = np.array_equal(a, three) or np.array_equal(a, four)
            np.testing.assert_array_equal(b, five if odd else a)
    for one, other in zip(patched[3:], batches((3, 4), range(3, 6)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_other_recording_moves() -> None:
    lengths = [400 + 10 * i for i in range(12)]
    shape = CropShape(codes=4, margin=1, stride=4)

    def crops(bad: tuple[int, ...], steps: range = range(4)) -> list[Crops]:
        source = FakeSpeech(lengths, bad)
        clips = CachedClips(source, SpeechDataConfig(workers=3))
        items = list(source.items())
        skipped = Skipped("skip", items)
        pieces = np.arange(12)
        made = training_crops(
            clips, items, pieces, shape, batch_size=6, seed=1, steps=steps, skipped=skipped
        )
        return list(made)

    whole, patched, later = crops(()), crops((5,)), crops((5,), range(2, 4))
    # Where the fifth was drawn, all crops behind it in that batch are drawn as for the sixth.
    same = [np.array_equal(a.audio[0], b.audio[0]) for a, b in zip(whole, patched, strict=True)]
    assert sum(same) >= 3
    differ = sum((a.speakers != b.speakers).sum() for a, b in zip(whole, patched, strict=True))
    assert differ == 2  # once in each of the two epochs: the sixth is of another speaker
    for one, other in zip(patched[2:], later, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def figures(path: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith("per_second")} for line in lines]


def listed(path: Path) -> set[str]:
    lines = (path / "skipped.jsonl").read_text().splitlines()
    assert len(set(lines)) == len(lines)
    return {json.loads(line)["file"] for line in lines}


def resumed(train_into, make_log, folder: Path) -> tuple[Path, list[str]]:
    """A run that was resumed is one that was not broken; its folder, and what it told."""
    unbroken, broken, log = folder / "unbroken", folder / "broken", make_log()
    train_into(unbroken, log, resume=False)
    with pytest.raises(KeyboardInterrupt):
        train_into(broken, make_log(stop_at=3), resume=False)
    train_into(broken, make_log(), resume=True)
    assert figures(broken) == figures(unbroken)
    one, other = (load_file(path / "model.safetensors") for path in (unbroken, broken))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert listed(broken) == listed(unbroken)
    return unbroken, [text for (text,) in log.named("noted")]


STEPS = {"steps": 4, "log_every": 2, "evaluate_every": 4, "checkpoint_every": 2}


def test_training_images_passes_over_bad_files(
    tmp_path: Path, make_config, make_log, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = range(0, 60, 7)  # of those to train on and of those that are held out
    monkeypatch.setattr(image, "open_images", lambda *args: FakeSource(60, bad))
    config = make_config()
    config = config.model_copy(update={"train": config.train.model_copy(update=STEPS)})
    with pytest.raises(ImageError, match="not an image that can be read"):
        train(config, tmp_path / "stopped", make_log())
    assert not (tmp_path / "stopped").exists()
    data = config.data.model_copy(update={"on_error": "skip"})
    config = config.model_copy(update={"data": data})

    def train_into(path: Path, log, *, resume: bool) -> None:
        train(config, path, log, resume=resume)

    path, told = resumed(train_into, make_log, tmp_path)
    names = {f"{i:06}.png" for i in bad}
    assert listed(path) == names
    assert {text.split()[1].rstrip(":") for text in told[:-1]} == names
    assert told[-1] == f"skipped {len(bad)} files that cannot be read; see {path}/skipped.jsonl"


def test_training_speech_passes_over_bad_files(
    tmp_path: Path, speech_data: Path, make_speech_config, make_log
) -> None:
    data = Path(shutil.copytree(speech_data, tmp_path / "data"))
    (data / "ann/000.wav").write_bytes(b"no audio")
    cut = (data / "bob/003.wav").read_bytes()
    (data / "bob/003.wav").write_bytes(cut[: len(cut) // 2])
    (data / "bob/x.m4a").write_bytes(bytes(10))
    config = make_speech_config(data)
    steps = STEPS | {"steps": 2, "evaluate_every": 2}
    config = config.model_copy(update={"train": config.train.model_copy(update=steps)})
    with pytest.raises(AudioError, match="no audio that can be read"):
        train_speech(config, tmp_path / "stopped", make_log())
    data_config = config.data.model_copy(update={"on_error": "skip", "holdout": 2})
    config = config.model_copy(update={"data": data_config})
    log = make_log()
    train_speech(config, tmp_path / "run", log)
    assert listed(tmp_path / "run") == {"ann/000.wav", "bob/003.wav"}
    told = [text for (text,) in log.named("noted")]
    assert any(text.startswith("passed over 1 files: 1 .m4a; convert .m4a") for text in told)
    assert told[-1].startswith("skipped 2 files")


def test_held_out_files_that_cannot_be_read(
    tmp_path: Path, make_config, make_log, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    data = config.data.model_copy(update={"on_error": "skip", "holdout": 1})
    config = config.model_copy(
        update={"data": data, "train": config.train.model_copy(update=STEPS)}
    )
    source = FakeSource(30)
    monkeypatch.setattr(image, "open_images", lambda *args: source)
    (held_out,) = image.ImageTask(config).items.held_out
    source.bad = {held_out.key}
    with pytest.raises(VqtrtError, match="all held-out images cannot be read, such as 0000"):
        train(config, tmp_path / "run", make_log())


def test_a_prior_passes_over_bad_files(tmp_path: Path, tiny_run: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    pictures = write_pictures(tmp_path / "data", *(f"{i}.png" for i in range(12)))
    (pictures / "3.png").write_bytes(b"no picture")
    settings = [f"data.path={pictures}"]
    with pytest.raises(ImageError, match=r"3\.png"):
        plan_prior(find_model(run), "pixelcnn", None, settings, resume=False, workers=1)
    settings.append("data.on_error=skip")
    planned = plan_prior(find_model(run), "pixelcnn", None, settings, resume=False, workers=1)
    assert len(planned.codes.codes) == 11
    assert [entry.file for entry in planned.codes.rejected] == ["3.png"]
    assert planned.config.data.on_error == "skip"
