"""What training a prior has in common, whatever its codes are of: hold-out, bits, live samples."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from vqtrt.config.audio import SpeechPriorConfig
from vqtrt.config.images import PriorConfig
from vqtrt.errors import VqtrtError
from vqtrt.formats.codes import Header
from vqtrt.formats.origin import require_origin
from vqtrt.models.deployed import DeployedGraph
from vqtrt.training.data_record import describe_names
from vqtrt.training.live_engine import LiveEngine
from vqtrt.training.loop import Task

B = TypeVar("B")
C = TypeVar("C", PriorConfig, SpeechPriorConfig)
H = TypeVar("H", bound=Header)


def known_header(codes: Path, header: H | None, tokenizer_sha256: str, items: str) -> H:
    """The header of codes to train on.

    Raises `VqtrtError` if there is none, or it is of another tokenizer than the run's.
    """
    if header is None:
        raise VqtrtError(
            f"{codes}: has no .json beside it, which says what made the codes; encode again"
        )
    require_origin(codes, header, tokenizer_sha256, items)
    return header


class PriorTask(Task, Generic[C, B]):
    """A prior, its codes, and how both are looked at.

    `names` and `sizes` (in codes) are of the rows or clips, of which some are held out, drawn by
    seed. Raises `VqtrtError`, which names `codes`, if there are not two.
    """

    figures = ("loss", "bits_per_code")

    def __init__(
        self,
        config: C,
        prior: nn.Module,
        codebooks: Tensor,
        names: Sequence[str],
        sizes: Sequence[int],
        codes: Path,
    ) -> None:
        self.config: C = config
        self.prior, self.codebooks = prior, codebooks
        self.module: nn.Module = prior
        count = len(sizes)
        if count < 2:
            raise VqtrtError(
                f"{codes}: training needs at least 2 rows or clips, one of them to hold out"
            )
        held_out = max(1, min(config.data.holdout, count // 10))
        rng = np.random.default_rng([config.train.seed, 1])
        self.held_out = np.sort(rng.choice(count, held_out, replace=False))
        self.training = np.setdiff1d(np.arange(count), self.held_out)
        names = names or [str(index) for index in range(count)]
        self.record = describe_names(
            dict(zip(names, sizes, strict=True)), [names[index] for index in self.held_out]
        )

    def start(self, device: torch.device) -> None:
        """Start the prior from the tokenizer's codebook."""
        prior: Any = self.prior
        prior.start_from(self.codebooks.to(device))

    def losses(self, module: nn.Module, batch: B, device: torch.device) -> Tensor:
        """`figures` of a batch: nats and bits per code."""
        loss = self.nats(module, batch, device).mean()
        return torch.stack([loss, loss.detach() / math.log(2)])

    def held_out_bits(self, device: torch.device) -> float:
        """Bits per held-out code."""
        nats, count = 0.0, 0
        for batch in self.held_out_batches():
            each = self.nats(self.prior, batch, device)
            nats, count = nats + float(each.double().sum()), count + len(each)
        return nats / count / math.log(2)

    def live_engine(self, device: torch.device) -> LiveEngine:
        """The prior's present weights as an engine, for a sampler."""
        return LiveEngine(self.graph, device)

    @abstractmethod
    def nats(self, module: nn.Module, batch: B, device: torch.device) -> Tensor:
        """Negative log-likelihood of each code that is scored, (codes,)."""

    @abstractmethod
    def held_out_batches(self) -> Iterator[B]:
        """What is held out."""

    @abstractmethod
    def graph(self, name: str) -> DeployedGraph:
        """A graph of the prior, such as `step`."""
