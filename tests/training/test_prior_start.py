import shutil

import numpy as np
import pytest

from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.config.location import find_model
from vqtrt.data.audio.decode import read_audio
from vqtrt.engines.choose import open_engine
from vqtrt.errors import VqtrtError
from vqtrt.priors.runs import trained_speech_priors
from vqtrt.training import prior_start
from vqtrt.training.prior_start import PlannedSpeech, plan_prior


@pytest.fixture
def run(tiny_speech, tmp_path):
    """A run on speech of one's own."""
    ignored = shutil.ignore_patterns("checkpoints", "tensorboard")
    return shutil.copytree(tiny_speech, tmp_path / "run", ignore=ignored)


def plan(run, recipe=None, name=None, *overrides, resume=False) -> PlannedSpeech:
    planned = plan_prior(find_model(run), recipe, name, overrides, resume=resume, workers=1)
    assert isinstance(planned, PlannedSpeech)
    return planned


def test_a_run_on_speech_gets_a_wavenet_of_its_own_recordings(run, speech_data):
    planned = plan(run)
    assert isinstance(planned, PlannedSpeech)
    assert planned.path == run / "priors" / "wavenet"
    assert planned.config.data.path == str(speech_data)
    assert planned.config.codes.classes == ("ann", "bob")
    assert (planned.config.codes.sample_rate, planned.config.codes.stride) == (8000, 32)
    assert (planned.config.prior.codebook_size, planned.config.prior.num_classes) == (16, 2)
    assert planned.codebooks.shape == (1, 16, 6)
    assert planned.codes.path == run / "priors" / "wavenet.npy"
    assert len(planned.codes) == 24
    assert set(planned.codes.labels) == {0, 1}
    assert len(np.unique(planned.codes.codes)) > 3


def test_speakers_are_found_as_the_run_found_them(run, speech_data, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(speech_data.rglob("*.wav"))):
        shutil.copy(path, flat / f"{'xy'[number % 2]}_{number}.wav")
    config = (run / "config.yaml").read_text()
    assert "speaker_pattern: null" in config
    pattern = r"speaker_pattern: ^(?P<speaker>[a-z])_"
    (run / "config.yaml").write_text(config.replace("speaker_pattern: null", pattern))
    assert plan(run, None, None, f"data.path={flat}").config.codes.classes == ("x", "y")


def test_a_codes_file(run, tmp_path):
    made = plan(run).codes.path
    for suffix in (".npy", ".json"):
        shutil.copy(made.with_suffix(suffix), tmp_path / f"given{suffix}")
    planned = plan(run, "wavenet", "other", f"data.path={tmp_path / 'given.npy'}")
    assert planned.codes.path == tmp_path / "given.npy"
    assert not (run / "priors" / "other.npy").exists()


def test_resuming_takes_the_codes_that_are_there(
    run, speech_data, make_speech_prior, make_log, monkeypatch
):
    def stop(*args, **options):
        raise AssertionError("encodes again")

    with pytest.raises(KeyboardInterrupt):
        make_speech_prior(run, watcher=make_log(stop_at=13))
    log = make_log()
    with monkeypatch.context() as patch:
        patch.setattr(prior_start.audio_encode, "encode_source", stop)
        make_speech_prior(run, resume=True, watcher=log)
    assert log.named("started") == [(10, 20)]
    assert trained_speech_priors(run)["wavenet"].info().kind == "wavenet"
    # Other recordings would be held out of others.
    monkeypatch.setattr(prior_start.audio_encode, "encode_source", stop)
    one = sorted(speech_data.glob("*/*.wav"))[0]
    with pytest.raises(VqtrtError, match=r"the data changed .*: 24 items then, 12 now"):
        plan(run, None, None, f"data.path={one.parent}", resume=True)


def test_the_codes_are_the_tokenizers(run, speech_data):
    codes = plan(run).codes
    tokenizer = AudioTokenizer(open_engine(find_model(run)))
    audio = read_audio(speech_data / codes.files[3], tokenizer.preprocessing)
    np.testing.assert_array_equal(codes.clip(3), tokenizer.encode(audio))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pixelcnn",), "pixelcnn: no prior for codes of speech, of which .*run is; take wavenet"),
        (("nonsense",), "no recipe 'nonsense'"),
        ((None, "../x"), "--name"),
        ((None, None, "data.path=nowhere"), "nowhere.*--data"),
        ((None, None, "prior.layer=3"), "prior.layers"),
        ((None, None, "prior.cycles=3"), "same number of layers"),
    ],
)
def test_what_cannot_be_planned(run, arguments, message):
    with pytest.raises(VqtrtError, match=message) as caught:
        plan(run, *arguments)
    assert "\n" not in str(caught.value)
    assert not (run / "priors").exists()


def test_a_wavenet_for_images(tiny_run):
    with pytest.raises(VqtrtError, match=r"no prior for codes of images, .*; take pixelcnn"):
        plan(tiny_run, "wavenet")
