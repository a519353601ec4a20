from pathlib import Path

import pytest
import soundfile
from speech_doubles import noise

from vqtrt.audio.source import open_recordings
from vqtrt.config.audio import SpeechConfig
from vqtrt.config.location import ModelLocation, find_model
from vqtrt.config.settings import parse_settings
from vqtrt.errors import VqtrtError

PATTERN = r"^\d_(?P<speaker>[a-z]+)"


@pytest.fixture
def run(tmp_path) -> ModelLocation:
    """A run whose data had the speakers in their names."""
    config = parse_settings(SpeechConfig, {"data": {"speaker_pattern": PATTERN}}, "tiny")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(config.to_yaml())
    return ModelLocation(tmp_path / "run", None, "named")


def recordings(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, noise(0, 10), 8000)
    return str(root)


def test_as_in_training(tmp_path, run):
    data = recordings(tmp_path / "data", "1_ann_0.wav", "2_bob_0.wav", "other.wav")
    source = open_recordings(run, data)
    assert source.classes == ("ann", "bob")
    assert [item.label for item in source.items()] == [0, 1, -1]


def test_by_folder_where_no_name_tells(tmp_path, run):
    data = recordings(tmp_path / "data", "eve/1.wav", "zoe/1.wav")
    assert open_recordings(run, data).classes == ("eve", "zoe")


def test_what_is_asked_for_counts(tmp_path, run):
    data = recordings(tmp_path / "data", "1_ann_0.wav", "2_bob_1.wav")
    assert open_recordings(run, data, r"_(?P<speaker>\d)").classes == ("0", "1")
    # Even where it finds nobody.
    assert open_recordings(run, data, "(?P<speaker>z)").classes == ()


def test_a_bundle_does_not_know(tmp_path):
    data = recordings(tmp_path / "data", "1_ann_0.wav", "eve/1.wav")
    bundle = ModelLocation(None, tmp_path / "bundle", "named")
    assert open_recordings(bundle, data).classes == ("eve",)


def test_what_is_missing(tmp_path, run):
    with pytest.raises(VqtrtError, match="nope: no such file or folder"):
        open_recordings(run, str(tmp_path / "nope"))


def test_the_config_of_a_project_beside_a_bundle_is_left_alone(tmp_path: Path) -> None:
    data = recordings(tmp_path / "data", "1_ann_0.wav", "eve/1.wav")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/bundle.json").touch()
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.yaml").write_text("defaults:\n  - speech\nseed: 3\n")
    assert open_recordings(find_model(tmp_path / "bundle"), data).classes == ("eve",)
