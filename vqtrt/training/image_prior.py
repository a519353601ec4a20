"""`vqtrt train-prior`: a prior over a tokenizer's codes as a task for the trainer."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.config.images import PriorConfig
from vqtrt.data.grid import image_grid, save_png
from vqtrt.errors import VqtrtError
from vqtrt.formats.codes import Codes
from vqtrt.formats.sampling import SamplingParams
from vqtrt.images.sampler import PixelCNNSampler
from vqtrt.images.tokenizer import ImageTokenizer
from vqtrt.models.deployed import DeployedGraph
from vqtrt.priors.pixelcnn import PixelCNN
from vqtrt.priors.pixelcnn_graphs import pixelcnn_graph
from vqtrt.priors.runs import PriorRun
from vqtrt.training.loader import batch_indices
from vqtrt.training.loop import Figures, Watcher
from vqtrt.training.prior_task import PriorTask, known_header
from vqtrt.training.run_task import run_task

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
    header = known_header(codes.path, codes.header, tokenizer_sha256, "images")
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
    what the prior starts from. Raises `VqtrtError` as `training.images.train` does.
    """
    torch.manual_seed(config.train.seed)
    task = ImagePriorTask(config, codes, tokenizer, codebooks)
    run_task(task, config, path, watcher, "samples", resume=resume, option="--name")
    return PriorRun(path, config)


class ImagePriorTask(PriorTask[PriorConfig, Batch]):
    """A PixelCNN, its grids of codes, and how both are looked at."""

    unit = "images"

    def __init__(
        self, config: PriorConfig, codes: Codes, tokenizer: ImageTokenizer, codebooks: Tensor
    ) -> None:
        count, size = len(codes.codes), int(np.prod(codes.codes.shape[1:]))
        self.pixelcnn = PixelCNN(config.prior)
        super().__init__(config, self.pixelcnn, codebooks, codes.files, [size] * count, codes.path)
        self.tokenizer = tokenizer
        self.codes = np.asarray(codes.codes).reshape(*codes.codes.shape[:3], -1)
        self.labels = np.array(codes.labels, np.int32) if config.codes.classes else None

    def batches(self, steps: range, rank: int, world: int) -> Iterator[Batch]:
        """This process's rows of each step."""
        train = self.config.train
        for step in steps:
            chosen = batch_indices(
                len(self.training), train.batch_size, train.seed, step, rank, world
            )
            yield self._take(self.training[chosen])

    def held_out_batches(self) -> Iterator[Batch]:
        """Rows that are held out, some at a time."""
        for start in range(0, len(self.held_out), _EVALUATION_BATCH):
            yield self._take(self.held_out[start : start + _EVALUATION_BATCH])

    def evaluate(self, device: torch.device, picture: Path) -> Figures:
        """Held-out bits per code, what they come to per dimension, and a grid of samples."""
        bits = self.held_out_bits(device)
        self._draw(picture, device)
        codes = self.config.codes
        stride = self.tokenizer.info.stride
        dimensions = codes.height * codes.width * stride**2 * 3
        count = codes.height * codes.width * self.config.prior.num_codebooks
        return {"bits_per_code": bits, "prior_bits_per_dim": bits * count / dimensions}

    def nats(self, module: nn.Module, batch: Batch, device: torch.device) -> Tensor:
        """Negative log-likelihood of each code of the rows, (n·h·w·C,)."""
        codes = torch.from_numpy(batch.codes).to(device)
        labels = None if batch.labels is None else torch.from_numpy(batch.labels).to(device)
        logits = module(codes, labels)
        return F.cross_entropy(logits.flatten(0, -2), codes.flatten().long(), reduction="none")

    def graph(self, name: str) -> DeployedGraph:
        """A graph of the prior, such as `row`."""
        return pixelcnn_graph(self.pixelcnn, name)

    def _take(self, rows: NDArray[np.int64]) -> Batch:
        labels = None if self.labels is None else self.labels[rows]
        return Batch(self.codes[rows].astype(np.int32), labels)

    def _draw(self, picture: Path, device: torch.device) -> None:
        """Samples as pictures: a line a class, or a few lines where there are none."""
        codes = self.config.codes
        lines = min(len(codes.classes), 20) or 4
        labels = np.repeat(np.arange(lines, dtype=np.int32), _SAMPLES) if codes.classes else None

        count = lines * _SAMPLES
        bind = self.live_engine(device).bind_rows
        sampler = PixelCNNSampler(bind, "", self.config.prior.codebook_size, count, codes.width)
        drawn = sampler.sample(SamplingParams(), range(count), codes.height, labels=labels)
        books = drawn if self.config.prior.num_codebooks > 1 else drawn[..., 0]
        images = self.tokenizer.decode(books)
        save_png(
            picture, image_grid(list(images.reshape(lines, _SAMPLES, *images.shape[1:])), scale=2)
        )
