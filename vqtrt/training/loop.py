"""The training loop: one process or many, on whatever device Accelerate finds.

Everything random in a step is keyed by (seed, step): the batch, and through torch's generator
the vectors that restart dead codes. So a run that was resumed follows the unbroken one exactly.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from vqtrt.config import Config, DataConfig
from vqtrt.data.batches import read_chunks
from vqtrt.data.grid import pairs_grid, save_png, spread
from vqtrt.data.open import open_images
from vqtrt.data.source import Images, ImageSource, Item
from vqtrt.errors import VqtrtError
from vqtrt.metrics import CodeUsage, ImageMetrics
from vqtrt.models.graphs import to_bytes, to_unit
from vqtrt.models.vqvae import VQVAE, Losses
from vqtrt.training.checkpoints import Checkpoints, save_weights, write_text
from vqtrt.training.loader import CachedSource, split_items, training_batches
from vqtrt.training.run import MetricsFile, Run

_GRID_IMAGES = 32
_EVALUATION_BATCH = 100


class StepFigures(NamedTuple):
    """Means since the last report."""

    step: int
    loss: float
    reconstruction: float
    perplexity: float
    images_per_second: float


class Watcher(Protocol):
    """Whoever shows the progress; called in the main process only."""

    def started(self, step: int, steps: int) -> None:
        """Training begins at `step` of `steps`."""

    def advanced(self, step: int) -> None:
        """`step` steps are done."""

    def reported(self, figures: StepFigures) -> None:
        """New means are there, every `train.log_every` steps."""

    def evaluated(self, step: int, figures: dict[str, float | None], picture: Path) -> None:
        """The held-out images were evaluated and a grid was written."""


def train(config: Config, path: Path, watcher: Watcher, *, resume: bool = False) -> Run:
    """Train the model of `config` into the run folder `path`; returns the finished run.

    Under `torchrun` or `accelerate launch` every process calls this. With `resume` the newest
    checkpoint is continued. Raises `VqtrtError` where the loss is no longer finite; the last good
    checkpoint is then kept.
    """
    torch.manual_seed(config.train.seed)
    accelerator = _accelerator(config.train.mixed_precision)
    if config.train.batch_size % accelerator.num_processes:
        raise VqtrtError(
            f"train.batch_size {config.train.batch_size} cannot be divided among "
            f"{accelerator.num_processes} processes"
        )
    data = _Data(config)
    if accelerator.is_main_process:
        if resume:
            write_text(path / "config.yaml", config.to_yaml())
        else:
            Run.create(path, config)
    accelerator.wait_for_everyone()
    run = Run(path, config)
    try:
        trainer = _Trainer(run, data, accelerator, watcher)
        start = trainer.resume() if resume else trainer.start()
    except BaseException:
        if not resume and accelerator.is_main_process:
            run.discard()
        raise
    trainer.train(start)
    return run


def _accelerator(mixed_precision: str) -> Accelerator:
    if mixed_precision == "fp16" and not torch.cuda.is_available():
        raise VqtrtError("float16 needs a GPU: take --set train.mixed_precision=bf16, or no")
    return Accelerator(mixed_precision=mixed_precision)


def _open(path: str) -> ImageSource:
    try:
        return open_images(path, split="train")
    except VqtrtError as error:
        # The path is often a recipe's, which the user never typed.
        raise VqtrtError(f"{error}; pass --data to name what to train on") from error


class _Data:
    """The training and the held-out images of a config."""

    def __init__(self, config: Config) -> None:
        self.config: DataConfig = config.data
        self.seed = config.train.seed
        source = _open(config.data.path)
        self.train, self.held_out = split_items(source, config.data.holdout, self.seed)
        self.source: ImageSource = CachedSource(
            source, len(self.train) + len(self.held_out), config.data
        )

    def variance(self) -> float:
        """Variance of the pixels in [0, 1], of up to 1,000 training images drawn by seed."""
        rng = np.random.default_rng([self.seed, 3])
        count = min(1000, len(self.train))
        rows = sorted(rng.choice(len(self.train), count, replace=False))
        images = np.concatenate(list(self.read([self.train[row] for row in rows])))
        return max(float(np.var(images / 255.0)), 1e-6)

    def read(self, items: list[Item]) -> Iterator[Images]:
        """The items in batches, in order."""
        step = _EVALUATION_BATCH
        chunks = (items[start : start + step] for start in range(0, len(items), step))
        settings = self.config
        for batch in read_chunks(
            self.source, settings.preprocessing, chunks, workers=settings.workers
        ):
            yield batch.images


class _Trainer:
    """One process's part of a run."""

    def __init__(self, run: Run, data: _Data, accelerator: Accelerator, watcher: Watcher) -> None:
        self.run, self.data, self.accelerator, self.watcher = run, data, accelerator, watcher
        self.config = run.config.train
        # Channels last is what the convolutions run fastest in, on CPUs and on tensor cores.
        self.model = VQVAE(run.config.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.config.learning_rate)
        self.checkpoints = Checkpoints(run.path / "checkpoints", self.config.keep_checkpoints)
        self.variance = data.variance()

    def start(self) -> int:
        """Start the codebook from the data; returns the first step, 0."""
        latents = 0
        images = []
        for batch in self.data.read(self.data.train):
            images.append(self._to_device(batch))
            height, width = batch.shape[1:3]
            latents += len(batch) * height * width // self.run.config.model.stride**2
            if latents >= 4 * self.run.config.model.quantizer.codebook_size:
                break
        self.model.to(self.accelerator.device)
        with torch.no_grad():
            z = torch.cat([self.model.encoder(part) for part in images])
        self.model.quantizer.start_from(z)
        return 0

    def resume(self) -> int:
        """Restore the newest checkpoint; returns the step to go on with, 0 before the first."""
        if not self.checkpoints.steps() and not self.run.weights.exists():
            return self.start()
        self.model.to(self.accelerator.device)
        step = self.checkpoints.load_newest(self.model, self.optimizer, self.accelerator.scaler)
        for group in self.optimizer.param_groups:
            # The checkpoint brings its own; a run may be resumed with another.
            group["lr"] = self.config.learning_rate
        return step

    def train(self, start: int) -> None:
        """Train from step `start` to the end."""
        if not self.accelerator.is_main_process:
            return self._steps(start, None)
        from torch.utils.tensorboard import SummaryWriter

        metrics = MetricsFile(self.run.path / "metrics.jsonl", start)
        board = SummaryWriter(
            self.run.path / "tensorboard", purge_step=start + 1 if start else None
        )
        try:
            self.watcher.started(start, self.config.steps)
            self._steps(start, _Log(metrics, board, self.watcher))
        finally:
            metrics.close()
            board.close()

    def _steps(self, start: int, log: "_Log | None") -> None:
        config, process = self.config, self.accelerator.process_index
        model, optimizer = self.accelerator.prepare(self.model, self.optimizer)
        steps = range(start, config.steps)
        batches = training_batches(
            self.data.source,
            self.data.train,
            self.data.config,
            batch_size=config.batch_size,
            seed=config.seed,
            steps=steps,
            rank=process,
            world=self.accelerator.num_processes,
        )
        means = _Means()
        for step, images in zip(steps, batches, strict=True):
            torch.manual_seed(_step_seed(config.seed, step, process))
            model.train()
            optimizer.zero_grad()
            with self.accelerator.autocast():
                losses = model(self._to_device(images), self.variance)
            self.accelerator.backward(losses.total)
            optimizer.step()
            means.add(losses)
            done = step + 1
            if log:
                log.watcher.advanced(done)
            evaluate = done % config.evaluate_every == 0 or done == config.steps
            save = done % config.checkpoint_every == 0 or done == config.steps
            if done % config.log_every == 0 or evaluate or save:
                self._report(means, done, log)
            if save:
                state = self.model.state_dict().values()
                if not torch.stack([value.isfinite().all() for value in state]).all():
                    raise self._diverged("the weights are no longer finite", done)
            # Saved before it is evaluated: what an evaluation reports can then be resumed from.
            if save and log:
                self.checkpoints.save(done, self.model, self.optimizer, self.accelerator.scaler)
                save_weights(self.model, self.run.weights)
            if evaluate and log:
                self._evaluate(done, log)
            if evaluate or save:
                self.accelerator.wait_for_everyone()

    def _report(self, means: "_Means", step: int, log: "_Log | None") -> None:
        total, reconstruction, perplexity = means.take(self.accelerator)
        if not math.isfinite(total):
            raise self._diverged(f"the loss is {total}", step)
        if log:
            rate = means.count * self.config.batch_size / means.seconds
            log.figures(StepFigures(step, total, reconstruction, perplexity, rate))
        means.reset()

    def _diverged(self, what: str, step: int) -> VqtrtError:
        kept = self.checkpoints.steps()
        last = f"step {kept[-1]} is kept in {self.checkpoints.folder}" if kept else "none was kept"
        return VqtrtError(
            f"{what} at step {step}; of the good checkpoints {last}; "
            f"try a lower rate: --set train.learning_rate={self.config.learning_rate / 3:.1e}"
        )

    @torch.no_grad()
    def _evaluate(self, step: int, log: "_Log") -> None:
        quantizer = self.run.config.model.quantizer
        metrics, usage = (
            ImageMetrics(),
            CodeUsage(quantizer.codebook_size, quantizer.num_codebooks),
        )
        model, shown = self.model.eval(), []
        for images in self.data.read(self.data.held_out):
            codes = model.quantizer.encode(model.encoder(self._to_device(images)))
            decoded = to_bytes(model.decoder(model.quantizer.lookup(codes))).cpu().numpy()
            metrics.update(images, decoded)
            usage.update(codes.cpu().numpy())
            shown.append((images, decoded))
        rows = sorted(spread(len(self.data.held_out), _GRID_IMAGES))
        originals, decoded = (np.concatenate(part)[rows] for part in zip(*shown, strict=True))
        picture = self.run.path / "reconstructions" / f"step-{step:08d}.png"
        picture.parent.mkdir(exist_ok=True)
        save_png(picture, pairs_grid(originals, decoded))
        figures = metrics.result() | {"perplexity": usage.perplexity, "usage": usage.usage}
        log.evaluation(step, figures, picture)

    def _to_device(self, images: Images) -> Tensor:
        # to_unit permutes bytes in NHWC order, so the result is already channels-last.
        return to_unit(torch.from_numpy(images).to(self.accelerator.device))


class _Log:
    """Where the main process writes its figures: file, TensorBoard, watcher."""

    def __init__(self, metrics: MetricsFile, board: object, watcher: Watcher) -> None:
        self.metrics, self.board, self.watcher = metrics, board, watcher

    def figures(self, figures: StepFigures) -> None:
        values = figures._asdict()
        self.metrics.write(values)
        self._scalars("train", figures.step, values)
        self.watcher.reported(figures)

    def evaluation(self, step: int, figures: dict[str, float | None], picture: Path) -> None:
        self.metrics.write({"step": step, "evaluation": figures})
        self._scalars("evaluation", step, figures)
        self.watcher.evaluated(step, figures, picture)

    def _scalars(self, group: str, step: int, values: dict[str, float | None]) -> None:
        for name, value in values.items():
            if name != "step" and value is not None:
                self.board.add_scalar(f"{group}/{name}", value, step)  # type: ignore[attr-defined]


class _Means:
    """Running means that stay on the device, so that a step waits for nothing."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.count = 0
        self.sums: Tensor | None = None
        self.began = time.perf_counter()

    def add(self, losses: Losses) -> None:
        values = torch.stack([value.detach() for value in losses])
        self.sums = values if self.sums is None else self.sums + values
        self.count += 1

    def take(self, accelerator: Accelerator) -> list[float]:
        assert self.sums is not None  # noqa: S101
        mean = accelerator.reduce(self.sums / self.count, "mean")
        values: list[float] = mean.tolist()
        self.seconds = time.perf_counter() - self.began
        return values


def _step_seed(seed: int, step: int, process: int) -> int:
    return int(
        np.random.SeedSequence([seed, 4, step, process]).generate_state(1, np.uint64)[0] >> 1
    )
