"""`vqtrt train` of models with a likelihood: the VQ-VAE, and its baselines VAE and VIMCO."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vqtrt.config.images import Config
from vqtrt.data.images.source import Images
from vqtrt.metrics import ImageMetrics
from vqtrt.models.image_graphs import to_bytes
from vqtrt.models.image_likelihood import LikelihoodModel, LikelihoodVQVAE, build_likelihood_model
from vqtrt.training.bits_per_dim import BoundMeans
from vqtrt.training.images import FileImages
from vqtrt.training.loop import Figures


class LikelihoodTask(FileImages):
    """The model, its data, and how both are looked at; figures are in bits per dimension."""

    figures = ("loss", "bits_per_dim", "reconstruction_bits", "latent_bits")

    def __init__(self, config: Config) -> None:
        self.model: LikelihoodModel = build_likelihood_model(config.model).to(
            memory_format=torch.channels_last  # type: ignore[call-overload]
        )
        self.module: nn.Module = self.model
        super().__init__(config)
        rising = config.model.likelihood.kl_warmup * config.train.steps
        self._kl_step = 1 / rising if rising else None

    def start(self, device: torch.device) -> None:
        """Start the codebook from the first training images, where there is one to start."""
        if isinstance(self.model, LikelihoodVQVAE):
            self._start_codebook(self.model, device)

    def batches(self, steps: range, rank: int, world: int) -> Iterator[tuple[float, Images]]:
        """The KL's weight and uint8 images (batch_size / world, H, W, 3) of each step."""
        for step, images in zip(steps, self._batches(steps, rank, world), strict=True):
            yield (1.0 if self._kl_step is None else min(1.0, (step + 1) * self._kl_step)), images

    def losses(self, module: nn.Module, batch: Any, device: torch.device) -> Tensor:
        """`figures` of a batch."""
        weight, images = batch
        return torch.stack(list(module(torch.from_numpy(images).to(device), weight)))

    def evaluate(self, device: torch.device, picture: Path) -> Figures:
        """Bounds of one sample and figures of the pictures, and a grid of them."""
        metrics, means, shown = ImageMetrics(), BoundMeans(), []
        generator = torch.Generator(device).manual_seed(self.config.train.seed)
        for images in self._read(self.items.held_out):
            batch = torch.from_numpy(images).to(device)
            means.add(self.model.bounds(batch, 1, generator), batch)
            decoded = to_bytes(self.model.reconstructed(batch)).cpu().numpy()
            metrics.update(images, decoded)
            shown.append((images, decoded))
        self._save_pairs(shown, picture)
        bits = means.result()
        names = ("bits_per_dim", "reconstruction_bits", "latent_bits")
        return {name: bits[name] for name in names} | metrics.result()
