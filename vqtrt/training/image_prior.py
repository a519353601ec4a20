"""`vqtrt train-prior`: a prior over a tokenizer's codes as a task for the trainer."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.config.images import PriorConfig
from vqtrt.data.grid import image_grid, save_png
from vqtrt.engines.torch_bound import TorchBound
from vqtrt.errors import VqtrtError
from vqtrt.formats.codes import Codes
from vqtrt.formats.sampling import SamplingParams
from vqtrt.images.sampler import PixelCNNSampler
from vqtrt.images.tokenizer import ImageTokenizer
from vqtrt.priors.pixelcnn import PixelCNN
from vqtrt.priors.pixelcnn_graphs import pixelcnn_graph
from vqtrt.priors.runs import PriorRun
from vqtrt.training.data_record import describe_names
from vqtrt.training.loader import batch_indices
from vqtrt.training.loop import Figures, Task, Trainer, Watcher, accelerator_for
from vqtrt.training.run import open_folder

_EVALUATION_BATCH = 64
_SAMPLES = 8


class Batch(NamedTuple):
    """Rows of codes and, where the prior is conditioned, their labels."""

    codes: NDArray[np.int32]
    """(n, h, w, C)."""
    labels: NDArray[np.int32] | None
    """(n,)."""


def fit_config(config: PriorConfig, codes: Codes, tokenizer_sha256: str) -> PriorConfig:
    """The settings with what the codes say: codebook, grid, labels.

    Raises `VqtrtError` where the codes are of another tokenizer, or have labels for some rows only.
    """
    header = codes.header
    if header is None:
        raise VqtrtError(
            f"{codes.path}: has no .json beside it, which says what made the codes; encode again"
        )
    if header.weights_sha256 != tokenizer_sha256:
        raise VqtrtError(
            f"{codes.path}: these are codes of another tokenizer; encode the images with this "
            "model, or name theirs with --model"
        )
    classes = header.classes if config.data.conditional else ()
    if classes and min(codes.labels, default=-1) < 0:
        raise VqtrtError(
            f"{codes.path}: some rows have no label; --set data.conditional=false ignores labels"
        )
    height, width = header.code_shape
    prior = config.prior.model_copy(
        update={
            "codebook_size": header.codebook_size,
            "num_codebooks": header.num_codebooks,
            "num_classes": len(classes),
        }
    )
    described = {
        "height": height,
        "width": width,
        "classes": classes,
        "weights_sha256": tokenizer_sha256,
    }
    return config.model_copy(
        update={
            "prior": prior.fitted(height, width),
            "codes": config.codes.model_copy(update=described),
        }
    )


def train_prior(
    config: PriorConfig,
    path: Path,
    codes: Codes,
    tokenizer: ImageTokenizer,
    codebooks: Tensor,
    watcher: Watcher,
    *,
    resume: bool = False,
) -> PriorRun:
    """Train the prior of `config` (as `fit_config` gives it) on codes, into the folder `path`.

    `tokenizer` turns samples into the pictures of the evaluations; its `codebooks` (C, K, D) are
    what the prior starts from. Raises `VqtrtError` as
    `training.image.train` does.
    """
    torch.manual_seed(config.train.seed)
    accelerator = accelerator_for(config.train)
    task = PriorTask(config, codes, tokenizer, codebooks)
    with open_folder(
        path, config, accelerator, task.record, resume=resume, option="--name"
    ) as begin:
        trainer = Trainer(task, path, config.train, accelerator, watcher, "samples")
        start = trainer.start(resume=resume)
        begin()
        trainer.train(start)
    return PriorRun(path, config)


class PriorTask(Task):
    """The prior, its codes, and how both are looked at."""

    figures = ("loss", "bits_per_code")
    unit = "images"

    def __init__(
        self, config: PriorConfig, codes: Codes, tokenizer: ImageTokenizer, codebooks: Tensor
    ) -> None:
        self.config, self.tokenizer, self.codebooks = config, tokenizer, codebooks
        self.prior = PixelCNN(config.prior)
        self.module: nn.Module = self.prior
        count = len(codes.codes)
        if count < 2:
            raise VqtrtError(f"{codes.path}: training needs at least 2 rows, one to hold out")
        self.codes = np.asarray(codes.codes).reshape(*codes.codes.shape[:3], -1)
        self.labels = np.array(codes.labels, np.int32) if config.codes.classes else None
        held_out = max(1, min(config.data.holdout, count // 10))
        rng = np.random.default_rng([config.train.seed, 1])
        self.held_out = np.sort(rng.choice(count, held_out, replace=False))
        self.rows = np.setdiff1d(np.arange(count), self.held_out)
        names = codes.files or [str(row) for row in range(count)]
        size = int(np.prod(codes.codes.shape[1:]))
        self.record = describe_names(
            dict.fromkeys(names, size), [names[row] for row in self.held_out]
        )

    def start(self, device: torch.device) -> None:
        """Start the prior from the tokenizer's codebook."""
        self.prior.start_from(self.codebooks.to(device))

    def batches(self, steps: range, rank: int, world: int) -> Iterator[Batch]:
        """This process's rows of each step."""
        train = self.config.train
        for step in steps:
            chosen = batch_indices(len(self.rows), train.batch_size, train.seed, step, rank, world)
            yield self._take(self.rows[chosen])

    def losses(self, module: nn.Module, batch: Batch, device: torch.device) -> Tensor:
        """`figures` of a batch: nats and bits a code."""
        loss = self._loss(module, batch, device)
        return torch.stack([loss, loss.detach() / math.log(2)])

    def evaluate(self, device: torch.device, picture: Path) -> Figures:
        """Held-out bits a code, what they come to a dimension, and a grid of samples."""
        total = 0.0
        for start in range(0, len(self.held_out), _EVALUATION_BATCH):
            rows = self.held_out[start : start + _EVALUATION_BATCH]
            total += float(self._loss(self.prior, self._take(rows), device)) * len(rows)
        bits = total / len(self.held_out) / math.log(2)
        self._draw(picture, device)
        codes = self.config.codes
        stride = self.tokenizer.facts.stride
        dimensions = codes.height * codes.width * stride**2 * 3
        count = codes.height * codes.width * self.config.prior.num_codebooks
        return {"bits_per_code": bits, "prior_bits_per_dim": bits * count / dimensions}

    def _loss(self, module: nn.Module, batch: Batch, device: torch.device) -> Tensor:
        codes = torch.from_numpy(batch.codes).to(device)
        labels = None if batch.labels is None else torch.from_numpy(batch.labels).to(device)
        logits = module(codes, labels)
        return F.cross_entropy(logits.flatten(0, -2), codes.flatten().long())

    def _take(self, rows: NDArray[np.int64]) -> Batch:
        labels = None if self.labels is None else self.labels[rows]
        return Batch(self.codes[rows].astype(np.int32), labels)

    def _draw(self, picture: Path, device: torch.device) -> None:
        """Samples as pictures: a line a class, or a few lines where there are none."""
        codes = self.config.codes
        lines = min(len(codes.classes), 20) or 4
        labels = np.repeat(np.arange(lines, dtype=np.int32), _SAMPLES) if codes.classes else None

        def bind(graph: str, sizes: Any, *, shared: Any = None, skip: Any = ()) -> TorchBound:
            part = graph.rpartition("/")[2]
            return TorchBound(pixelcnn_graph(self.prior, part), sizes, shared or {}, skip, device)

        count = lines * _SAMPLES
        sampler = PixelCNNSampler(bind, "", self.config.prior.codebook_size, count, codes.width)
        drawn = sampler.sample(SamplingParams(), range(count), codes.height, labels)
        books = drawn if self.config.prior.num_codebooks > 1 else drawn[..., 0]
        images = self.tokenizer.decode(books)
        save_png(
            picture, image_grid(list(images.reshape(lines, _SAMPLES, *images.shape[1:])), scale=2)
        )
