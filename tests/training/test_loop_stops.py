import os
import re
import signal

import numpy as np
import pytest
from loop_runs import assert_equal, figures, weights, with_train

from vqtrt.errors import VqtrtError
from vqtrt.models import weights as weight_files
from vqtrt.system import interrupts
from vqtrt.training import images as image
from vqtrt.training import loop
from vqtrt.training.images import train


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
    save, calls = weight_files.save_file, []

    def fail(tensors, path):
        calls.append(path)
        # The first checkpoint is two files and the run's weights.
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        save(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(weight_files, "save_file", fail)
        with pytest.raises(VqtrtError, match="No space left"):
            train(config, tmp_path / "run", make_log())
    train(config, tmp_path / "unbroken", make_log())
    train(config, tmp_path / "run", make_log(), resume=True)
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "unbroken"))
