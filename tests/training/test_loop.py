import shutil

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from loop_runs import assert_equal, figures, weights, with_train
from PIL import Image
from safetensors.torch import load_file

from vqtrt.errors import VqtrtError
from vqtrt.models.runs import ImageRun
from vqtrt.training.images import train


def test_what_a_run_leaves(tiny_run):
    assert (tiny_run / "config.yaml").is_file()
    lines = figures(tiny_run)
    reports = [line for line in lines if "loss" in line]
    assert [line["step"] for line in reports] == [5, 10, 15, 20]
    assert set(reports[0]) == {"step", "loss", "reconstruction", "perplexity"}
    assert reports[-1]["loss"] < reports[0]["loss"]
    assert reports[-1]["loss"] >= reports[-1]["reconstruction"]
    evaluations = [line for line in lines if "evaluation" in line]
    assert [line["step"] for line in evaluations] == [10, 20]
    expected = {"mse", "nmse", "psnr", "ssim", "perplexity", "usage"}
    assert set(evaluations[0]["evaluation"]) == expected
    # Or tests that compare codes would compare one and the same.
    assert evaluations[-1]["evaluation"]["usage"] > 0.5
    pictures = sorted((tiny_run / "reconstructions").iterdir())
    assert [path.name for path in pictures] == ["step-00000010.png", "step-00000020.png"]
    with Image.open(pictures[-1]) as image:
        assert np.asarray(image).std() > 0
    (events,) = (tiny_run / "tensorboard").iterdir()
    assert b"evaluation/psnr" in events.read_bytes()
    steps = sorted(path.name for path in (tiny_run / "checkpoints").iterdir())
    assert steps == ["step-00000010", "step-00000020"]
    newest = load_file(tiny_run / "checkpoints" / steps[-1] / "model.safetensors")
    assert_equal(newest, weights(tiny_run))


def test_what_the_watcher_is_told(tmp_path, make_config, make_log):
    log = make_log()
    config = with_train(make_config(), steps=4, log_every=2, evaluate_every=3)
    run = train(config, tmp_path / "run", log)
    assert log.named("started") == [(0, 4)]
    assert log.named("advanced") == [(1,), (2,), (3,), (4,)]
    assert [call[0] for call in log.named("reported")] == [2, 3, 4]
    for step, values, picture in log.named("evaluated"):
        assert picture == run.path / "reconstructions" / f"step-{step:08d}.png"
        assert picture.is_file()
        assert values["usage"] > 0
    assert [call[0] for call in log.named("evaluated")] == [3, 4]


@pytest.mark.parametrize("kind", ["ema", "gradient", "cosine", "simvq"])
def test_a_resumed_run_is_the_unbroken_one(tmp_path, make_config, make_log, kind):
    # Dead codes are restarted all the time: that randomness has to be repeated too.
    config = make_config(kind=kind, restart_below=0.7, decay=0.8, num_codebooks=2)
    config = with_train(config, steps=12, log_every=4, evaluate_every=6, checkpoint_every=6)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    train(config, unbroken, make_log())
    with pytest.raises(KeyboardInterrupt):
        train(config, broken, make_log(stop_at=9))
    assert [line["step"] for line in figures(broken)] == [4, 6, 6, 8]
    log = make_log()
    run = train(config, broken, log, resume=True)
    assert log.named("started") == [(6, 12)]
    assert figures(broken) == figures(unbroken)
    assert_equal(weights(broken), weights(unbroken))
    name = "checkpoints/step-00000012/optimizer.safetensors"
    assert_equal(load_file(broken / name), load_file(unbroken / name))
    assert run.config == config


def test_seeds_matter_and_repeat(tmp_path, make_config, make_log):
    config = with_train(make_config(), steps=2)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(with_train(config, seed=seed), tmp_path / name, make_log())
    assert_equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert figures(tmp_path / "a") != figures(tmp_path / "c")


def test_a_run_that_broke_before_its_first_checkpoint_begins_again(tmp_path, make_config, make_log):
    config = with_train(make_config(), steps=3)
    train(config, tmp_path / "unbroken", make_log())
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "broken", make_log(stop_at=2))
    train(config, tmp_path / "broken", make_log(), resume=True)
    assert_equal(weights(tmp_path / "broken"), weights(tmp_path / "unbroken"))
    assert figures(tmp_path / "broken") == figures(tmp_path / "unbroken")


def test_settings_that_change_at_a_resume_hold(tmp_path, make_config, make_log):
    config = with_train(make_config(), steps=2)
    path = tmp_path / "run"
    train(config, path, make_log())
    before = weights(path)
    # So low that nothing moves: the checkpoint's own rate would move it.
    longer = with_train(config, steps=3, learning_rate=1e-30)
    train(longer, path, make_log(), resume=True)
    after = weights(path)
    for name in before:
        if not name.startswith("quantizer."):
            assert torch.equal(before[name], after[name]), name
    assert ImageRun.open(path).config == longer


def test_a_finished_run_resumes_to_itself(tmp_path, make_config, make_log):
    config = with_train(make_config(), steps=2)
    train(config, tmp_path / "run", make_log())
    before, lines = weights(tmp_path / "run"), figures(tmp_path / "run")
    train(config, tmp_path / "run", make_log(), resume=True)
    assert_equal(weights(tmp_path / "run"), before)
    assert figures(tmp_path / "run") == lines


def test_weights_of_the_checkpoint_before_are_replaced(tmp_path, make_config, make_log):
    """A process was killed between a checkpoint and the run's weights."""
    config = with_train(make_config(), steps=4, checkpoint_every=2)
    train(config, tmp_path / "run", make_log())
    before = weights(tmp_path / "run")
    (tmp_path / "run/model.safetensors").unlink()  # it is mapped
    old = tmp_path / "run/checkpoints/step-00000002/model.safetensors"
    shutil.copy(old, tmp_path / "run/model.safetensors")
    train(config, tmp_path / "run", make_log(), resume=True)
    assert_equal(weights(tmp_path / "run"), before)


def test_one_process_trains_in_a_run(tmp_path, make_config, make_log):
    config = with_train(make_config(), steps=2)
    path, tried = tmp_path / "run", []

    class Second(make_log().__class__):
        def advanced(self, step):
            before = (path / "config.yaml").read_bytes()
            with pytest.raises(VqtrtError, match="run: another process is writing it"):
                train(with_train(config, steps=9), path, make_log(), resume=True)
            assert (path / "config.yaml").read_bytes() == before
            tried.append(step)

    train(config, path, Second())
    assert tried == [1, 2]
    assert not (path / ".lock").exists()


def test_settings_are_kept_where_a_checkpoint_does_not_load(tmp_path, make_config, make_log):
    config = with_train(make_config(), steps=2)
    train(config, tmp_path / "run", make_log())
    before = (tmp_path / "run/config.yaml").read_bytes()
    (tmp_path / "run/checkpoints/step-00000002/state.json").write_text("{")
    with pytest.raises(VqtrtError, match="damaged"):
        train(with_train(config, steps=4), tmp_path / "run", make_log(), resume=True)
    assert (tmp_path / "run/config.yaml").read_bytes() == before


def test_a_run_is_not_resumed_on_other_data(tmp_path, make_config, make_log):
    config = with_train(make_config(), steps=2)
    train(config, tmp_path / "run", make_log())
    for change, message in (
        ({"path": "shapes:201"}, "200 items then, 201 now"),
        ({"holdout": 9}, "other items would be held out"),
    ):
        other = config.model_copy(update={"data": config.data.model_copy(update=change)})
        with pytest.raises(VqtrtError, match=message):
            train(other, tmp_path / "run", make_log(), resume=True)
    assert ImageRun.open(tmp_path / "run").config == config


def test_a_run_is_not_written_over(tiny_run, make_config, make_log):
    before = weights(tiny_run)
    with pytest.raises(VqtrtError, match="exists already"):
        train(make_config(), tiny_run, make_log())
    assert_equal(weights(tiny_run), before)


@pytest.fixture
def other_precision():
    """Accelerate holds one precision a process, and these tests share one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("other_precision")
def test_bfloat16_trains_and_keeps_float32_weights(tmp_path, make_config, make_log):
    config = with_train(make_config(), steps=2, mixed_precision="bf16")
    train(config, tmp_path / "run", make_log())
    kept = weights(tmp_path / "run").values()
    assert {value.dtype for value in kept if value.is_floating_point()} == {torch.float32}


@pytest.mark.skipif(torch.cuda.is_available(), reason="float16 works where there is a GPU")
def test_float16_without_a_gpu_says_so(tmp_path, make_config, make_log):
    config = with_train(make_config(), mixed_precision="fp16")
    with pytest.raises(VqtrtError, match=r"needs a GPU.*train\.mixed_precision=bf16"):
        train(config, tmp_path / "run", make_log())
