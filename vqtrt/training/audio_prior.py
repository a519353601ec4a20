"""`vqtrt train-prior wavenet`: a prior over the codes of speech as a task for the trainer.

Notable: every code of the training clips is scored once an epoch, with all the codes before it that
the prior sees, wherever a crop begins; so a clip is learnt from its first code on, and how it is
cut makes no difference. Behind the end of a clip others of its speaker may follow (`data.join`),
which are also scored: a prior that never saw anything there would fall silent.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.audio.code_crops import Crop, code_crops, take_crops
from vqtrt.audio.sampler import ClipSampler
from vqtrt.config.audio import SpeechPriorConfig
from vqtrt.data.grid import save_png
from vqtrt.engines.lengths import length_batches
from vqtrt.errors import VqtrtError
from vqtrt.formats.audio_codes import ClipCodes, check_clip_codes
from vqtrt.formats.sampling import SamplingParams
from vqtrt.models.deployed import DeployedGraph
from vqtrt.priors.runs import SpeechPriorRun
from vqtrt.priors.wavenet import WaveNetPrior
from vqtrt.priors.wavenet_graphs import wavenet_graph
from vqtrt.training.code_picture import code_colors, codes_picture
from vqtrt.training.loader import batch_indices
from vqtrt.training.loop import Figures, Watcher
from vqtrt.training.prior_task import PriorTask, known_header
from vqtrt.training.run_task import run_task

_EVALUATION_BATCH = 64
_SHOWN = 12
"""Clips in a picture, held-out ones and as many that are drawn."""


class Batch(NamedTuple):
    """Crops of clips and, where the prior is conditioned, their speakers."""

    codes: NDArray[np.int32]
    """(n, t), with codes before the crops and zeros behind them."""
    loss_mask: NDArray[np.bool_]
    """(n, t): codes that are scored."""
    speakers: NDArray[np.int32] | None
    """(n,)."""


def fit_speech_config(
    config: SpeechPriorConfig, codes: ClipCodes, tokenizer_sha256: str
) -> SpeechPriorConfig:
    """The settings with what the codes say: codebook, rate, speakers.

    Raises `VqtrtError` where the codes are of another tokenizer, or have speakers for some clips
    only.
    """
    header = known_header(codes.path, codes.header, tokenizer_sha256, "recordings")
    check_clip_codes(codes, header.codebook_size)
    speakers = header.classes if config.data.conditional else ()
    if speakers and min(codes.labels, default=-1) < 0:
        raise VqtrtError(
            f"{codes.path}: some clips have no speaker; --set data.conditional=false ignores "
            "speakers"
        )
    prior = {"codebook_size": header.codebook_size, "num_classes": len(speakers)}
    described = {
        "sample_rate": header.sample_rate,
        "stride": header.stride,
        "classes": speakers,
        "weights_sha256": tokenizer_sha256,
    }
    return config.model_copy(
        update={
            "prior": config.prior.model_copy(update=prior),
            "codes": config.codes.model_copy(update=described),
        }
    )


def train_speech_prior(
    config: SpeechPriorConfig,
    path: Path,
    codes: ClipCodes,
    codebooks: Tensor,
    watcher: Watcher,
    *,
    resume: bool = False,
) -> SpeechPriorRun:
    """Train the prior of `config` (as `fit_speech_config` gives it), into the folder `path`.

    The tokenizer's `codebooks` (1, K, D) are what the prior starts from. Raises `VqtrtError` as
    `training.images.train` does.
    """
    torch.manual_seed(config.train.seed)
    task = SpeechPriorTask(config, codes, codebooks)
    run_task(task, config, path, watcher, "samples", resume=resume, option="--name")
    return SpeechPriorRun(path, config)


class SpeechPriorTask(PriorTask[SpeechPriorConfig, Batch]):
    """A WaveNet, its clips of codes, and how both are looked at."""

    unit = "crops"

    def __init__(self, config: SpeechPriorConfig, codes: ClipCodes, codebooks: Tensor) -> None:
        self.wavenet = WaveNetPrior(config.prior)
        super().__init__(config, self.wavenet, codebooks, codes.files, codes.lengths(), codes.path)
        self.codes = codes
        self.speakers = np.array(codes.labels, np.int32) if config.codes.classes else None
        clips = self.training
        self.crops, self.held_out_crops = self._crops(clips), self._crops(self.held_out)
        # Who speaks matters here even where the prior is not told.
        labels = np.array(codes.labels or [0] * len(codes))
        self._clips_of = {label: clips[labels[clips] == label] for label in set(labels[clips])}
        self._labels = labels
        self.unigram_bits = self._unigram_bits(clips)

    def batches(self, steps: range, rank: int, world: int) -> Iterator[Batch]:
        """This process's crops of each step."""
        train = self.config.train
        for step in steps:
            count = len(self.crops)
            chosen = batch_indices(count, train.batch_size, train.seed, step, rank, world)
            crops = [self.crops[i] for i in chosen]
            rng = np.random.default_rng([train.seed, 5, step, rank])
            yield self._take(crops, [self._tail(crop, rng) for crop in crops])

    def held_out_batches(self) -> Iterator[Batch]:
        """Batches of the held-out crops; crops of similar length share a batch."""
        lengths = [crop.length for crop in self.held_out_crops]
        for indices in length_batches(lengths, _EVALUATION_BATCH):
            yield self._take([self.held_out_crops[i] for i in indices])

    def evaluate(self, device: torch.device, picture: Path) -> Figures:
        """Held-out bits per code, and a picture of held-out clips above clips that are drawn.

        Beside it the bits that the training codes' frequencies alone take.
        """
        bits = self.held_out_bits(device)
        self._draw(picture, device)
        return {"bits_per_code": bits, "unigram_bits": self.unigram_bits}

    def graph(self, name: str) -> DeployedGraph:
        """A graph of the prior, such as `step`."""
        return wavenet_graph(self.wavenet, name)

    def nats(self, module: nn.Module, batch: Batch, device: torch.device) -> Tensor:
        """Negative log-likelihood of each code that is scored, (codes,)."""
        codes = torch.from_numpy(batch.codes).to(device)
        speakers = None if batch.speakers is None else torch.from_numpy(batch.speakers).to(device)
        loss_mask = torch.from_numpy(batch.loss_mask).to(device)
        logits = module(codes, speakers)
        return F.cross_entropy(logits[loss_mask], codes[loss_mask].long(), reduction="none")

    def _crops(self, clips: NDArray[np.int64]) -> list[Crop]:
        reach, size = self.config.prior.receptive_field, self.config.data.crop
        return code_crops(self.codes.lengths(), clips.tolist(), size, reach)

    def _tail(self, crop: Crop, rng: np.random.Generator) -> NDArray[Any]:
        """Codes of the clips that follow a crop and fit; none where its own clip goes on."""
        data, own = self.config.data, self._clips_of[self._labels[crop.clip]]
        room = data.crop - (crop.stop - crop.start)
        ends = crop.stop == len(self.codes.clip(crop.clip))
        drawn = rng.choice(own, data.join - 1 if ends else 0)
        return np.concatenate([self.codes.codes[:0], *map(self.codes.clip, drawn)])[:room]

    def _take(self, crops: Sequence[Crop], tails: Sequence[NDArray[Any]] | None = None) -> Batch:
        codes, loss_mask = take_crops(self.codes, crops, tails=tails)
        clips = [crop.clip for crop in crops]
        return Batch(codes, loss_mask, None if self.speakers is None else self.speakers[clips])

    def _unigram_bits(self, clips: NDArray[np.int64]) -> float:
        """Bits a held-out code by the training codes' frequencies, each code counted once more.

        So that one that no training clip has does not take infinitely many.
        """
        counts = np.ones(self.config.prior.codebook_size)
        for clip in clips:
            counts += np.bincount(self.codes.clip(clip), minlength=len(counts))
        bits = -np.log2(counts / counts.sum())
        return float(np.concatenate([bits[self.codes.clip(clip)] for clip in self.held_out]).mean())

    def _draw(self, picture: Path, device: torch.device) -> None:
        shown = self.held_out[:_SHOWN]
        real = [np.asarray(self.codes.clip(clip)[: self.config.data.crop]) for clip in shown]

        # Of the same speakers, and as long as they are.
        speakers = None if self.speakers is None else self.speakers[shown]
        bind = self.live_engine(device).bind_steps
        sampler = ClipSampler(bind, "", self.config.prior.codebook_size, len(shown))
        drawn = sampler.sample(SamplingParams(), range(len(shown)), max(map(len, real)), speakers)
        made = [codes[: len(like)] for codes, like in zip(drawn, real, strict=True)]
        colors = code_colors(self.codebooks[0].cpu().numpy())
        save_png(picture, codes_picture([real, made], colors))
