"""The training loop, of tokenizers and of priors: one process or many, on what Accelerate finds.

Everything random in a step is keyed by (seed, step): the batch, and through torch's generator
whatever the model draws. So a run that was resumed follows the unbroken one exactly.
"""

import filecmp
import math
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vqtrt.config.parts import TrainConfig
from vqtrt.errors import VqtrtError
from vqtrt.models.weights import save_weights
from vqtrt.system import interrupts
from vqtrt.training.checkpoints import Checkpoints
from vqtrt.training.data_record import DataRecord
from vqtrt.training.ranks import Ranks
from vqtrt.training.run import MetricsFile

Figures = dict[str, float | None]


class Watcher(Protocol):
    """Whoever shows the progress; called in the main process only."""

    def started(self, step: int, steps: int) -> None:
        """Training begins at `step` of `steps`."""

    def advanced(self, step: int) -> None:
        """`step` steps are done."""

    def reported(self, step: int, figures: Figures) -> None:
        """Means since the last report, every `train.log_every` steps."""

    def evaluated(self, step: int, figures: Figures, picture: Path) -> None:
        """The held-out data were evaluated and a picture was written."""

    def noted(self, text: str) -> None:
        """Something to tell about the data; also called in other processes, from any thread."""


class Task(Protocol):
    """What is trained."""

    module: nn.Module
    record: DataRecord
    unit: str
    """What a batch is counted in."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of what `losses` gives; the first is minimised."""

    def start(self, device: torch.device) -> None:
        """Get the module ready for its first step; not called when a run is resumed."""

    def batches(self, steps: range, rank: int, world: int) -> Iterator[Any]:
        """This process's share of the batch of each step."""

    def batch_size(self, step: int) -> int | None:
        """Items of a step, over all processes, if not `train.batch_size`; None by default."""
        return None

    def losses(self, module: nn.Module, batch: Any, device: torch.device) -> Tensor:
        """The figures of a batch, (len(figures),), through `module`, which may be wrapped."""

    def frozen(self) -> Iterable[nn.Parameter]:
        """Weights that do not learn from the batch that `losses` has just seen; none by default."""
        return ()

    def evaluate(self, device: torch.device, picture: Path) -> Figures:
        """Figures on the held-out data; writes a PNG to look at."""


def accelerator_for(config: TrainConfig) -> Accelerator:
    """The devices to train on. Raises `VqtrtError` if they cannot do what the settings ask."""
    if config.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise VqtrtError("float16 needs a GPU: take --set train.mixed_precision=bf16, or no")
    # Accelerate joins processes on CPUs only if it is told to; else each trains the run alone.
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    on_cpus = several and not torch.accelerator.is_available()
    accelerator = Accelerator(mixed_precision=config.mixed_precision, cpu=on_cpus)
    if config.batch_size % accelerator.num_processes:
        raise VqtrtError(
            f"train.batch_size {config.batch_size} cannot be divided among "
            f"{accelerator.num_processes} processes"
        )
    return accelerator


class Trainer:
    """One process's part in training a task, in the folder of its run."""

    def __init__(
        self,
        task: Task,
        folder: Path,
        config: TrainConfig,
        accelerator: Accelerator,
        watcher: Watcher,
        pictures: str,
    ) -> None:
        self.task, self.folder, self.config = task, folder, config
        self.accelerator, self.watcher, self.pictures = accelerator, watcher, pictures
        self.ranks = Ranks()
        self.optimizer = torch.optim.Adam(task.module.parameters(), lr=config.learning_rate)
        self.checkpoints = Checkpoints(folder / "checkpoints", config.keep_checkpoints)

    def start(self, *, resume: bool) -> int:
        """Get ready for the first step, or for the one after the newest checkpoint; its number."""
        device, weights = self.accelerator.device, self.folder / "model.safetensors"
        self.task.module.to(device)
        if resume and (self.checkpoints.steps() or weights.exists()):
            scaler = self.accelerator.scaler
            step = self.checkpoints.load_newest(self.task.module, self.optimizer, scaler)
            if self.accelerator.is_main_process and not self._weights_are_newest(weights):
                save_weights(self.task.module, weights)
            return step
        self.task.start(device)
        return 0

    def _weights_are_newest(self, weights: Path) -> bool:
        """Whether they are those of the newest checkpoint: a job may die between the two."""
        newest = self.checkpoints.newest / weights.name
        return weights.is_file() and filecmp.cmp(weights, newest, shallow=False)

    def train(self, start: int) -> None:
        """Train from step `start` to the end.

        A signal is waited for to the end of a step, of which a checkpoint is then written: raises
        `Terminated`, in all processes.
        """
        with interrupts.noted():
            self._train(start)

    def _train(self, start: int) -> None:
        if not self.accelerator.is_main_process:
            return self._steps(start, None)
        from torch.utils.tensorboard import SummaryWriter

        purge = start + 1 if start else None
        metrics = MetricsFile(self.folder / "metrics.jsonl", start)
        board = SummaryWriter(self.folder / "tensorboard", purge_step=purge)
        try:
            log = _Log(metrics, board, self.watcher)
            self.watcher.started(start, self.config.steps)
            if start and self._evaluated_at(start) and start not in metrics.evaluated:
                self._evaluate(start, log)  # a signal came before it was done
            self._steps(start, log)
        finally:
            metrics.close()
            board.close()

    def _steps(self, start: int, log: "_Log | None") -> None:
        config, accelerator, task = self.config, self.accelerator, self.task
        self.ranks.wait()
        if start and self._asked_to_stop():
            raise self._stopped(start)
        model, optimizer = accelerator.prepare(task.module, self.optimizer)
        rank, world = accelerator.process_index, accelerator.num_processes
        steps = range(start, config.steps)
        means = _Means()
        for step, batch in zip(steps, task.batches(steps, rank, world), strict=True):
            torch.manual_seed(_step_seed(config.seed, step, rank))
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            model.train()
            optimizer.zero_grad()
            with accelerator.autocast():
                losses = task.losses(model, batch, accelerator.device)
            accelerator.backward(losses[0])
            for parameter in task.frozen():
                # Adam's averages of zeros would make its first real steps many times too long.
                parameter.grad = None
            if config.clip_norm is not None:
                accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            means.add(losses.detach(), task.batch_size(step) or config.batch_size)
            self._after(step + 1, means, log)

    def _after(self, done: int, means: "_Means", log: "_Log | None") -> None:
        config = self.config
        last = done == config.steps
        if log:
            log.watcher.advanced(done)
        stop = not last and self._asked_to_stop()
        evaluate = self._evaluated_at(done) and not stop
        save = last or stop or done % config.checkpoint_every == 0
        if evaluate or save or done % config.log_every == 0:
            self._report(means, done, log)
        if save:
            state = self.task.module.state_dict().values()
            if not torch.stack([value.isfinite().all() for value in state]).all():
                raise self._diverged("the weights are no longer finite", done)
        # Saved before it is evaluated: what an evaluation reports can then be resumed from.
        if save and log:
            self._save(done)
        if evaluate and log:
            self._evaluate(done, log)
        if evaluate or save:
            self.ranks.wait()
        if evaluate and not stop and self._asked_to_stop():
            stop = True
            if not save and log:
                self._save(done)
            self.ranks.wait()
        if stop:
            raise self._stopped(done)

    def _evaluated_at(self, done: int) -> bool:
        return done == self.config.steps or done % self.config.evaluate_every == 0

    def _asked_to_stop(self) -> bool:
        """Whether a signal came to any process: all stop after the same step."""
        return self.ranks.any(interrupts.received() is not None)

    def _save(self, done: int) -> None:
        self.checkpoints.save(done, self.task.module, self.optimizer, self.accelerator.scaler)
        save_weights(self.task.module, self.folder / "model.safetensors")

    def _evaluate(self, done: int, log: "_Log") -> None:
        """Figures of the held-out data, unless a signal comes: they may take minutes."""
        picture = self.folder / self.pictures / f"step-{done:08d}.png"
        picture.parent.mkdir(exist_ok=True)
        self.task.module.eval()
        try:
            with interrupts.released(), torch.no_grad():
                figures = self.task.evaluate(self.accelerator.device, picture)
        except interrupts.Terminated:
            return
        log.evaluation(done, figures, picture)

    def _stopped(self, done: int) -> interrupts.Terminated:
        stopped = interrupts.Terminated(interrupts.received() or signal.SIGTERM)
        if done == self.config.steps:
            stopped.add_note(f"all {done} steps are done; --resume makes the last evaluation")
        else:
            stopped.add_note(
                f"step {done} of {self.config.steps} is kept in {self.checkpoints.folder}; the "
                "same command with --resume goes on"
            )
        return stopped

    def _report(self, means: "_Means", step: int, log: "_Log | None") -> None:
        values = means.take(self.accelerator)
        if not math.isfinite(values[0]):
            raise self._diverged(f"the loss is {values[0]}", step)
        if log:
            figures: Figures = dict(zip(self.task.figures, values, strict=True))
            rate = means.items / means.seconds
            log.figures(step, figures | {f"{self.task.unit}_per_second": rate})
        means.reset()

    def _diverged(self, what: str, step: int) -> VqtrtError:
        kept = self.checkpoints.steps()
        last = f"step {kept[-1]} is kept in {self.checkpoints.folder}" if kept else "none was kept"
        return VqtrtError(
            f"{what} at step {step}; of the good checkpoints {last}; "
            f"try a lower rate: --set train.learning_rate={self.config.learning_rate / 3:.1e}"
        )


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of a step (counted from 0): linear warm-up, then constant or half a cosine to 0."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return config.learning_rate * warm
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


class _Log:
    """Where the main process writes its figures: file, TensorBoard, watcher."""

    def __init__(self, metrics: MetricsFile, board: Any, watcher: Watcher) -> None:
        self.metrics, self.board, self.watcher = metrics, board, watcher

    def figures(self, step: int, figures: Figures) -> None:
        self.metrics.write({"step": step, **figures})
        self._scalars("train", step, figures)
        self.watcher.reported(step, figures)

    def evaluation(self, step: int, figures: Figures, picture: Path) -> None:
        self.metrics.write({"step": step, "evaluation": figures})
        self._scalars("evaluation", step, figures)
        self.watcher.evaluated(step, figures, picture)

    def _scalars(self, group: str, step: int, figures: Figures) -> None:
        for name, value in figures.items():
            if value is not None:
                self.board.add_scalar(f"{group}/{name}", value, step)


class _Means:
    """Running means that stay on the device, so that a step waits for nothing."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.count = self.items = 0
        self.sums: Tensor | None = None
        self.began = time.perf_counter()

    def add(self, losses: Tensor, items: int) -> None:
        self.sums = losses if self.sums is None else self.sums + losses
        self.count += 1
        self.items += items

    def take(self, accelerator: Accelerator) -> list[float]:
        assert self.sums is not None  # noqa: S101
        values: list[float] = accelerator.reduce(self.sums / self.count, "mean").tolist()
        self.seconds = time.perf_counter() - self.began
        return values


def _step_seed(seed: int, step: int, process: int) -> int:
    return int(
        np.random.SeedSequence([seed, 4, step, process]).generate_state(1, np.uint64)[0] >> 1
    )
