import json
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from speech_doubles import WAVENET, FakeSpeech

from vqtrt.config.audio import SpeechConfig
from vqtrt.data.audio.decode import write_wav
from vqtrt.errors import VqtrtError
from vqtrt.models.runs import AudioRun
from vqtrt.training import loop
from vqtrt.training.audio import SpeechTask, train_speech
from vqtrt.training.audio_batches import CachedClips
from vqtrt.training.loader import Split

RESTING = WAVENET | {"target_steps": 3}


def with_train(config: SpeechConfig, **settings) -> SpeechConfig:
    return config.model_copy(update={"train": config.train.model_copy(update=settings)})


def figures(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith("per_second")} for line in lines]


def weights(path):
    return load_file(path / "model.safetensors")


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        assert torch.equal(found[name], expected[name]), name


def test_what_it_leaves(tiny_speech):
    lines = figures(tiny_speech)
    reports = [line for line in lines if "loss" in line]
    assert [line["step"] for line in reports] == [5, 10, 15, 20]
    assert set(reports[0]) == {"step", "loss", "reconstruction", "spectrum", "perplexity"}
    evaluations = [line["evaluation"] for line in lines if "evaluation" in line]
    assert len(evaluations) == 2
    assert set(evaluations[0]) == set(reports[0]) - {"step"} | {"usage"}
    for name in ("reconstruction", "spectrum"):
        assert evaluations[1][name] < evaluations[0][name]
    assert evaluations[1]["perplexity"] > 2
    seen = sorted(path.name for path in (tiny_speech / "reconstructions").iterdir())
    steps = ("step-00000010", "step-00000020")
    assert seen == [name for step in steps for name in (step, f"{step}.png")]
    heard = tiny_speech / "reconstructions" / steps[1]
    parts = ("conversion", "original", "reconstruction")
    names = sorted(path.name for path in heard.iterdir())
    # A tenth of 24 recordings is held out.
    assert names == [f"{row}-{part}.wav" for row in range(2) for part in parts]


def test_the_run_knows_the_speakers(tiny_speech):
    run = AudioRun.open(tiny_speech)
    assert run.config.model.speakers == ("ann", "bob")
    assert run.load_model().conditioner.speakers.num_embeddings == 3


@pytest.mark.parametrize("model", [{}, RESTING], ids=["conv", "wavenet"])
def test_a_resumed_run_is_the_unbroken_one(
    tmp_path, speech_data, make_speech_config, make_log, model
):
    config = make_speech_config(speech_data, jitter=0.2, speaker_adversary=0.1, **model)
    config = with_train(config, steps=6, log_every=2, evaluate_every=6, checkpoint_every=3)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    train_speech(config, unbroken, make_log())
    with pytest.raises(KeyboardInterrupt):
        train_speech(config, broken, make_log(stop_at=5))
    log = make_log()
    # A resumed run has the settings that it wrote, speakers and all.
    run = train_speech(AudioRun.open(broken).config, broken, log, resume=True)
    assert log.named("started") == [(3, 6)]
    assert figures(broken) == figures(unbroken)
    assert_equal(weights(broken), weights(unbroken))
    name = "checkpoints/step-00000006/optimizer.safetensors"
    assert_equal(load_file(broken / name), load_file(unbroken / name))
    assert run.config == AudioRun.open(unbroken).config


def test_a_wavenet_learns(tmp_path, speech_data, make_speech_config, make_log):
    config = with_train(make_speech_config(speech_data, **RESTING), steps=40, evaluate_every=20)
    path = train_speech(config, tmp_path / "run", make_log()).path
    first, last = [line["evaluation"] for line in figures(path) if "evaluation" in line]
    # Bits a sample, of 8 that say nothing.
    assert last["reconstruction"] < first["reconstruction"] < 8
    assert last["reconstruction"] < 6.5


def test_the_decoder_rests_at_first(tmp_path, speech_data, make_speech_config, make_log):
    config = make_speech_config(speech_data, target_steps=2)
    config = with_train(config, steps=4, log_every=1, checkpoint_every=1, keep_checkpoints=9)
    path = train_speech(config, tmp_path / "run", make_log()).path
    reports = [line for line in figures(path) if "loss" in line]
    assert [line["reconstruction"] == 0 for line in reports] == [True, True, False, False]
    steps = [weights(path / "checkpoints" / f"step-{step:08d}") for step in (1, 2, 3)]
    name = "decoder.layers.0.conv.weight"
    assert torch.equal(steps[0][name], steps[1][name])
    assert not torch.equal(steps[1][name], steps[2][name])


def test_batches_of_steps_in_which_the_decoder_rests(tmp_path, speech_data, make_speech_config):
    config = make_speech_config(speech_data, target_steps=3)
    data = config.data.model_copy(update={"target_batch": 7})
    task = SpeechTask(config.model_copy(update={"data": data}))
    sizes = [len(batch.audio) for batch in task.batches(range(1, 6), 0, 1)]
    assert sizes == [7, 7, 4, 4, 4]
    # Begun in the middle, the same.
    later = list(task.batches(range(4, 6), 0, 1))
    whole = list(task.batches(range(6), 0, 1))
    for one, other in zip(later, whole[4:], strict=True):
        np.testing.assert_array_equal(one.audio, other.audio)


def test_each_recording_counts_by_its_length(tmp_path, make_speech_config):
    rng = np.random.default_rng(0)
    for number, samples in enumerate([100, 512, 5120, 1300]):
        audio = 0.1 * rng.normal(size=samples).astype(np.float32)
        write_wav(tmp_path / "ann" / f"{number}.wav", audio, 8000)
    task = SpeechTask(make_speech_config(tmp_path))
    counts = {"ann/0.wav": 1, "ann/1.wav": 1, "ann/2.wav": 10, "ann/3.wav": 3}
    assert [counts[item.name] for item in task.items.train] == np.bincount(task.pieces).tolist()


def test_the_margin_changes_nothing(tmp_path, speech_data, make_speech_config):
    """Losses of a crop are those of the same place in the whole recording."""
    task = SpeechTask(make_speech_config(speech_data))
    task.start(torch.device("cpu"))
    task.module.eval()
    item = task.items.held_out[0]
    batch = task._held_out([item])
    with torch.no_grad():
        margin = task.model.encoder.context
        cropped = task.model.encoder.body(torch.from_numpy(batch.audio))[0, :, margin:-margin]
        whole = task.model.encoder(torch.from_numpy(padded(task.clips.read(item)))[None])[0]
    around = task.shape.margin - margin
    count = min(task.shape.codes, whole.shape[1])
    torch.testing.assert_close(cropped[:, around : around + count], whole[:, :count])


def padded(audio):
    return np.pad(audio, (0, -len(audio) % 32))


def test_other_speakers_than_the_run_was_begun_with(tmp_path, speech_data, make_speech_config):
    config = make_speech_config(speech_data, speakers=("ann", "cy"))
    with pytest.raises(VqtrtError, match=r"not those that the model was begun with \(ann, cy\)"):
        SpeechTask(config)


def test_data_that_are_not_there(tmp_path, make_speech_config, make_log):
    config = make_speech_config(tmp_path / "nope")
    with pytest.raises(VqtrtError, match=r"nope: no such file or folder.*pass --data to name"):
        train_speech(config, tmp_path / "run", make_log())
    assert not (tmp_path / "run").exists()


def test_a_decoder_that_has_rested_begins_with_steps_of_the_learning_rate(
    tmp_path, speech_data, make_speech_config, make_log
):
    config = make_speech_config(speech_data, target_steps=12)
    config = with_train(config, steps=13, checkpoint_every=1, keep_checkpoints=2, warmup_steps=0)
    path = train_speech(config, tmp_path / "run", make_log()).path
    before, after = (weights(path / "checkpoints" / f"step-{step:08d}") for step in (12, 13))
    name = "decoder.layers.0.conv.weight"
    # Adam's first step is the learning rate for every weight that has a gradient.
    assert (after[name] - before[name]).abs().max() < 1.01 * config.train.learning_rate


def test_the_variance_of_many_recordings_needs_no_large_array(make_speech_config) -> None:
    config = make_speech_config("unread")
    data = config.data.model_copy(update={"cache_mib": 0})
    source = FakeSpeech([12_000 + 10 * i for i in range(60)], block=20_000)
    task = SpeechTask.__new__(SpeechTask)
    task.config, task.clips = config, CachedClips(source, data)
    task.items = Split(list(source.items()), [])
    tracemalloc.start()
    try:
        found = task._variance()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    whole = np.concatenate([task.clips.read(item) for item in source.items()])
    assert found == pytest.approx(np.square(whole, dtype=np.float64).mean(), rel=1e-12)
    # All samples as float64 are 5.9 MB; one recording is 0.1 MB.
    assert peak < 1_000_000


def test_the_rate_counts_the_crops_of_each_step(
    tmp_path, speech_data, make_speech_config, make_log, monkeypatch
) -> None:
    config = make_speech_config(speech_data, target_steps=3)
    config = config.model_copy(update={"data": config.data.model_copy(update={"target_batch": 12})})
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=iter(range(100)).__next__))
    log = make_log()
    settings = {"steps": 6, "log_every": 2, "evaluate_every": 9, "checkpoint_every": 9}
    train_speech(with_train(config, **settings), tmp_path / "run", log)
    rates = [figures["crops_per_second"] for _, figures in log.named("reported")]
    # Each interval lasts a second of this clock: 12 + 12, 12 + 4 and 4 + 4 crops.
    assert rates == [24, 16, 8]
