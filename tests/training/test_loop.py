import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

from vqtrt.errors import VqtrtError
from vqtrt.system import interrupts
from vqtrt.training import checkpoints, loop
from vqtrt.training import images as image
from vqtrt.training.images import train
from vqtrt.training.run import Run


def with_train(config, **settings):
    return config.model_copy(update={"train": config.train.model_copy(update=settings)})


def figures(path):
    """The lines of metrics.jsonl without the one value that is a measurement of time."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def weights(path):
    return load_file(path / "model.safetensors")


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


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


@pytest.mark.parametrize("kind", ["ema", "gradient"])
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
    assert Run.open(path).config == longer


def test_a_finished_run_resumes_to_itself(tmp_path, make_config, make_log):
    config = with_train(make_config(), steps=2)
    train(config, tmp_path / "run", make_log())
    before, lines = weights(tmp_path / "run"), figures(tmp_path / "run")
    train(config, tmp_path / "run", make_log(), resume=True)
    assert_equal(weights(tmp_path / "run"), before)
    assert figures(tmp_path / "run") == lines


class Signals:
    """A watcher that sends this process a signal once, when it is told something."""

    def __init__(self, log, call, step, number=signal.SIGTERM):
        self._log, self._at, self._number = log, (call, step), number

    def __getattr__(self, call):
        def tell(*arguments):
            getattr(self._log, call)(*arguments)
            if (call, arguments[0]) == self._at:
                os.kill(os.getpid(), self._number)

        return tell


@pytest.mark.parametrize("step", [1, 5, 6, 11])
def test_a_signal_is_waited_for_to_the_end_of_a_step(tmp_path, make_config, make_log, step):
    config = make_config(restart_below=0.7, decay=0.8)
    config = with_train(config, steps=12, log_every=4, evaluate_every=6, checkpoint_every=6)
    train(config, tmp_path / "unbroken", make_log())
    path = tmp_path / "broken"
    with interrupts.handled(), pytest.raises(interrupts.Terminated) as caught:
        train(config, path, Signals(make_log(), "advanced", step))
    assert caught.value.number == signal.SIGTERM
    assert f"step {step} of 12 is kept in {path}/checkpoints" in caught.value.__notes__[0]
    assert "--resume goes on" in caught.value.__notes__[0]
    log = make_log()
    train(config, path, log, resume=True)
    assert log.named("started") == [(step, 12)]
    assert_equal(weights(path), weights(tmp_path / "unbroken"))
    evaluations = [line for line in figures(path) if "evaluation" in line]
    assert evaluations == [f for f in figures(tmp_path / "unbroken") if "evaluation" in f]
    assert not list(path.rglob(".*"))


def test_a_signal_breaks_off_an_evaluation(tmp_path, make_config, make_log, monkeypatch):
    config = with_train(make_config(), steps=4, log_every=4, evaluate_every=2, checkpoint_every=3)
    train(config, tmp_path / "unbroken", make_log())
    evaluate, steps = image.ImageTask.evaluate, []

    def asked(self, device, picture):
        steps.append(picture.stem)
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, device, picture)

    # Halfway, where no checkpoint would be written, and at the end.
    for step in (2, 4):
        with monkeypatch.context() as patch, interrupts.handled():
            patch.setattr(image.ImageTask, "evaluate", asked)
            with pytest.raises(interrupts.Terminated) as caught:
                train(config, tmp_path / "broken", make_log(), resume=step == 4)
        if step == 2:
            # It is made up for before the next step.
            train(with_train(config, steps=3), tmp_path / "broken", make_log(), resume=True)
    assert "all 4 steps are done; --resume makes the last evaluation" in caught.value.__notes__
    assert steps == ["step-00000002", "step-00000004"]
    train(config, tmp_path / "broken", make_log(), resume=True)
    assert_equal(weights(tmp_path / "broken"), weights(tmp_path / "unbroken"))
    found, expected = (
        [line["step"] for line in figures(tmp_path / name) if "evaluation" in line]
        for name in ("broken", "unbroken")
    )
    assert set(found) >= set(expected) == {2, 4}


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
    assert Run.open(tmp_path / "run").config == config


def spoil_from(monkeypatch, step, value):
    """Make the total loss `value` from a step on."""
    calls = []
    forward = image.VQVAE.forward

    def spoiled(self, images, variance):
        losses = forward(self, images, variance)
        calls.append(1)
        return losses._replace(total=losses.total * value) if len(calls) >= step else losses

    monkeypatch.setattr(image.VQVAE, "forward", spoiled)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops(tmp_path, make_config, make_log, monkeypatch, value):
    config = with_train(make_config(), steps=12, log_every=2, checkpoint_every=3)
    spoil_from(monkeypatch, 5, value)
    with pytest.raises(VqtrtError, match=r"at step 6; .* step 3 is kept in .*checkpoints") as error:
        train(config, tmp_path / "run", make_log())
    (rate,) = re.findall(r"--set train.learning_rate=(\S+)", str(error.value))
    assert 0 < float(rate) < config.train.learning_rate
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())
    assert all(np.isfinite(line.get("loss", 0)) for line in figures(tmp_path / "run"))
    log = make_log()
    train(config, tmp_path / "run", log, resume=True)
    assert log.named("started") == [(3, 12)]


def test_weights_that_are_not_finite_are_not_saved(tmp_path, make_config, make_log, monkeypatch):
    """The loss of step 6 is good, what its gradient makes of the weights is not."""
    config = with_train(make_config(), steps=12, checkpoint_every=3)
    backward = loop.Accelerator.backward
    steps = []

    def spoiled(self, loss):
        backward(self, loss)
        steps.append(1)
        if len(steps) == 6:
            trainer.task.model.encoder[0].weight.grad[0] = float("nan")

    start = loop.Trainer.start

    def remember(self, *, resume):
        nonlocal trainer
        trainer = self
        return start(self, resume=resume)

    trainer = None
    monkeypatch.setattr(loop.Trainer, "start", remember)
    monkeypatch.setattr(loop.Accelerator, "backward", spoiled)
    with pytest.raises(VqtrtError, match=r"weights .* step 6; .* step 3 is kept"):
        train(config, tmp_path / "run", make_log())
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_a_rate_far_too_high_stops_before_any_checkpoint(tmp_path, make_config, make_log):
    config = with_train(make_config(), steps=6, learning_rate=1e30)
    with pytest.raises(VqtrtError, match="none was kept"):
        train(config, tmp_path / "run", make_log())
    assert not (tmp_path / "run/model.safetensors").exists()


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, make_config, make_log, monkeypatch):
    config = with_train(make_config(), steps=4, checkpoint_every=2, evaluate_every=2)
    save, calls = checkpoints.save_file, []

    def fail(tensors, path):
        calls.append(path)
        # The first checkpoint is two files and the run's weights.
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        save(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", fail)
        with pytest.raises(VqtrtError, match="No space left"):
            train(config, tmp_path / "run", make_log())
    train(config, tmp_path / "unbroken", make_log())
    train(config, tmp_path / "run", make_log(), resume=True)
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "unbroken"))


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


_PROCESS = """
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from vqtrt.config import load_config
from vqtrt.errors import VqtrtError
from vqtrt.training import image, loop

folder, kind = Path(sys.argv[1]), sys.argv[2]


class Quiet:
    def started(self, step, steps): ...
    def advanced(self, step): ...
    def reported(self, step, figures): ...
    def evaluated(self, step, figures, picture): ...

    def noted(self, text): ...


kept = []
make = loop.Trainer.__init__


def remember(self, *args):
    make(self, *args)
    kept.append(self)


loop.Trainer.__init__ = remember
config = load_config(folder / "config.yaml")
try:
    image.train(config, folder / "run", Quiet(), resume=kind == "resume")
except VqtrtError as error:
    print(f"VqtrtError: {error}", file=sys.stderr)
    sys.exit(3)
state = {name: value.contiguous() for name, value in kept[0].task.module.state_dict().items()}
save_file(state, folder / f"rank{dist.get_rank()}.safetensors")
dist.destroy_process_group()
"""


def torchrun(folder, *arguments):
    """Run `_PROCESS` in two processes on the CPU."""
    script = folder / "process.py"
    script.write_text(_PROCESS)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path.cwd()),
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, script, folder, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ema", "gradient"])
def test_two_processes_hold_the_same_codebook(tmp_path, make_config, make_log, kind):
    config = make_config(kind=kind, restart_below=0.7, decay=0.8)
    config = with_train(config, steps=8, log_every=4, evaluate_every=4, checkpoint_every=4)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    done = torchrun(tmp_path, "new")
    assert done.returncode == 0, done.stderr
    ranks = [load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1)]
    assert_equal(*ranks)
    assert_equal(ranks[0], weights(tmp_path / "run"))
    lines = figures(tmp_path / "run")
    assert [line["step"] for line in lines] == [4, 4, 8, 8]
    # One batch, shared out: the first figures are about those of a single process.
    train(config, tmp_path / "single", make_log())
    assert lines[0]["loss"] == pytest.approx(figures(tmp_path / "single")[0]["loss"], rel=0.3)

    longer = with_train(config, steps=12)
    (tmp_path / "config.yaml").write_text(longer.to_yaml())
    done = torchrun(tmp_path, "resume")
    assert done.returncode == 0, done.stderr
    ranks = [load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1)]
    assert_equal(*ranks)
    assert [line["step"] for line in figures(tmp_path / "run")] == [4, 4, 8, 8, 12, 12]


@pytest.mark.slow
def test_two_processes_without_restarts_learn_what_one_does(tmp_path, make_config, make_log):
    """Sums over the processes and the mean of their gradients: the same step, but for rounding."""
    config = make_config(restart_below=0)
    config = with_train(config, steps=4, log_every=1)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    done = torchrun(tmp_path, "new")
    assert done.returncode == 0, done.stderr
    train(config, tmp_path / "single", make_log())
    both = zip(figures(tmp_path / "run"), figures(tmp_path / "single"), strict=True)
    for two, one in both:
        if "loss" in one:
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_out(tmp_path, make_config):
    config = with_train(make_config(), batch_size=7)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    done = torchrun(tmp_path, "new")
    assert done.returncode != 0
    assert "VqtrtError: train.batch_size 7 cannot be divided among 2 processes" in done.stderr
    assert not (tmp_path / "run").exists()
