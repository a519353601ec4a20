"""`vqtrt train`: the image VQ-VAE as a task for the trainer."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vqtrt.config.images import Config, DataConfig
from vqtrt.data.grid import pairs_grid, save_png, spread
from vqtrt.data.images.batches import read_chunks
from vqtrt.data.images.open import open_images
from vqtrt.data.images.source import Images, ImageSource
from vqtrt.data.source import Item
from vqtrt.data.urls import require_local
from vqtrt.errors import ImageError, VqtrtError
from vqtrt.metrics import CodeUsage, ImageMetrics
from vqtrt.models.heads import normalize
from vqtrt.models.image import VQVAE
from vqtrt.models.image_graphs import to_bytes
from vqtrt.models.runs import ImageRun
from vqtrt.training.data_record import describe_items
from vqtrt.training.loader import CachedSource, PatchedSource, split_items, training_batches
from vqtrt.training.loop import Figures, Task, Watcher
from vqtrt.training.run_task import train_files
from vqtrt.training.skipped import Skipped

_GRID_IMAGES = 32
_EVALUATION_BATCH = 100


def train(config: Config, path: Path, watcher: Watcher, *, resume: bool = False) -> ImageRun:
    """Train the model of `config` into the run folder `path`; returns the finished run.

    Under `torchrun` or `accelerate launch` every process calls this. With `resume` the newest
    checkpoint is continued. Raises `VqtrtError` where the loss is no longer finite; the last good
    checkpoint is then kept.
    """
    kind: Callable[[Config], FileImages] = ImageTask
    if config.model.likelihood.head != "mse":
        from vqtrt.training.images_likelihood import LikelihoodTask

        kind = LikelihoodTask
    task = train_files(lambda: kind(config), config.train, path, watcher, resume=resume)
    return ImageRun(path, task.config)


class FileImages(Task):
    """Images of files: what the tasks of all models of images share."""

    unit = "images"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.data = _open(config.data)
        self.items = split_items(self.data, config.data.holdout, config.train.seed)
        self.record = describe_items(self.data, *self.items)
        count = len(self.items.train) + len(self.items.held_out)
        self.source: ImageSource = CachedSource(self.data, count, config.data)
        self.skipped = Skipped(config.data.on_error, self.items.train)

    def _start_codebook(self, model: VQVAE, device: torch.device) -> None:
        """Start the codebook from the first training images."""
        wanted = 4 * self.config.model.quantizer.codebook_size
        latents, vectors = 0, []
        for images in self._read(self.items.train):
            with torch.no_grad():
                vectors.append(model.encoder(_to_device(images, device)))
            latents += vectors[-1].shape[0] * vectors[-1].shape[2] * vectors[-1].shape[3]
            if latents >= wanted:
                break
        model.quantizer.start_from(torch.cat(vectors))

    def _batches(self, steps: range, rank: int, world: int) -> Iterator[Images]:
        """uint8 images (batch_size / world, H, W, 3) of each step."""
        return training_batches(
            PatchedSource(self.source, self.skipped),
            self.items.train,
            self.config.data,
            batch_size=self.config.train.batch_size,
            seed=self.config.train.seed,
            steps=steps,
            rank=rank,
            world=world,
        )

    def _read(self, items: list[Item]) -> Iterator[Images]:
        """The items in batches, in order, without those that are skipped."""
        step, settings = _EVALUATION_BATCH, self.config.data
        chunks = (items[start : start + step] for start in range(0, len(items), step))
        size, workers = settings.preprocessing, settings.workers
        batches = read_chunks(
            self.source, size, chunks, workers=workers, on_error=settings.on_error
        )
        for batch in batches:
            for item, reason in batch.rejected:
                self.skipped.add(item, ImageError(reason))
            if batch.items:
                yield batch.images

    def _save_pairs(self, shown: list[tuple[Images, Images]], picture: Path) -> None:
        """A grid of some originals over their reconstructions, from batches of both."""
        if not shown:
            raise self.skipped.nothing_left("all held-out images")
        rows = sorted(spread(sum(len(images) for images, _ in shown), _GRID_IMAGES))
        originals, decoded = (np.concatenate(part)[rows] for part in zip(*shown, strict=True))
        save_png(picture, pairs_grid(originals, decoded))


class ImageTask(FileImages):
    """The VQ-VAE with the mean squared error."""

    figures = ("loss", "reconstruction", "perplexity")

    def __init__(self, config: Config) -> None:
        # Channels last is what the convolutions run fastest in, on CPUs and on tensor cores.
        self.model = VQVAE(config.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module: nn.Module = self.model
        super().__init__(config)
        self.variance = self._variance()

    def start(self, device: torch.device) -> None:
        """Start the codebook from the first training images."""
        self._start_codebook(self.model, device)

    def batches(self, steps: range, rank: int, world: int) -> Iterator[Images]:
        """uint8 images (batch_size / world, H, W, 3) of each step."""
        return self._batches(steps, rank, world)

    def losses(self, module: nn.Module, batch: Images, device: torch.device) -> Tensor:
        """`figures` of a batch."""
        return torch.stack(list(module(_to_device(batch, device), self.variance)))

    def evaluate(self, device: torch.device, picture: Path) -> Figures:
        """Held-out figures, and a grid of originals over reconstructions."""
        quantizer = self.config.model.quantizer
        metrics = ImageMetrics()
        usage = CodeUsage(quantizer.codebook_size, quantizer.num_codebooks)
        shown = []
        for images in self._read(self.items.held_out):
            codes = self.model.quantizer.encode(self.model.encoder(_to_device(images, device)))
            decoded = to_bytes(self.model.decode(codes)).cpu().numpy()
            metrics.update(images, decoded)
            usage.update(codes.cpu().numpy())
            shown.append((images, decoded))
        self._save_pairs(shown, picture)
        return metrics.result() | {"perplexity": usage.perplexity, "usage": usage.usage}

    def _variance(self) -> float:
        """Variance of the pixels in [0, 1], of up to 1,000 training images drawn by seed."""
        train = self.items.train
        rng = np.random.default_rng([self.config.train.seed, 3])
        rows = sorted(rng.choice(len(train), min(1000, len(train)), replace=False))
        # How often each byte occurs says it exactly, and holds one image at a time.
        counts = np.zeros(256, np.int64)
        for images in self._read([train[row] for row in rows]):
            for image in images:
                counts += np.bincount(image.ravel(), minlength=256)
        count, levels = int(counts.sum()), np.arange(256)
        if not count:
            raise self.skipped.nothing_left(f"all {len(rows)} images that were tried")
        total, squares = int(counts @ levels), int(counts @ levels**2)
        return max((count * squares - total**2) / (255 * count) ** 2, 1e-6)


def _open(data: DataConfig) -> ImageSource:
    require_local(data.path, "training reads it in random order")
    try:
        return open_images(data.path, "train", data.selection)
    except VqtrtError as error:
        # The path is often a recipe's, which the user never typed.
        raise VqtrtError(f"{error}; pass --data to name what to train on") from error


def _to_device(images: Images, device: torch.device) -> Tensor:
    # normalize permutes bytes in NHWC order, so the result is already channels-last.
    return normalize(torch.from_numpy(images).to(device))
