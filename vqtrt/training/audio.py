"""`vqtrt train`: the VQ-VAE of speech as a task for the trainer."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vqtrt.config.audio import SpeechConfig, SpeechDataConfig
from vqtrt.data.audio.decode import audio_length
from vqtrt.data.audio.folder import AudioSource
from vqtrt.data.audio.open import open_speech
from vqtrt.data.grid import spread
from vqtrt.data.source import Item
from vqtrt.data.urls import require_local
from vqtrt.errors import AudioError, VqtrtError
from vqtrt.metrics import CodeUsage
from vqtrt.models.audio import SpeechVQVAE
from vqtrt.models.runs import AudioRun
from vqtrt.training.audio_batches import Audio, CachedClips, Crops, CropShape, crop, training_crops
from vqtrt.training.audio_picture import Shown, show_clips
from vqtrt.training.data_record import describe_items
from vqtrt.training.loader import split_items
from vqtrt.training.loop import Figures, Task, Watcher
from vqtrt.training.run_task import train_files
from vqtrt.training.skipped import Skipped

_EVALUATION_BATCH = 8
_EVALUATION_CROPS = 64
_SHOWN = 3
_PIECE = 1 << 16
_FITTED = 16
"""Crops a speaker, on average, that the target's scale is fitted to."""


def train_speech(
    config: SpeechConfig, path: Path, watcher: Watcher, *, resume: bool = False
) -> AudioRun:
    """Train the model of `config` into the run folder `path`; returns the finished run.

    As `training.image.train`. The run's settings name the data's speakers.
    """
    task = train_files(lambda: SpeechTask(config), config.train, path, watcher, resume=resume)
    return AudioRun(path, task.config)


class SpeechTask(Task):
    """The model, its data, and how both are looked at."""

    figures = ("loss", "reconstruction", "spectrum", "perplexity")
    unit = "crops"

    def __init__(self, config: SpeechConfig) -> None:
        data = config.data
        source = _open(data)
        speakers = config.model.speakers or source.classes
        if speakers != source.classes:
            raise VqtrtError(
                f"{data.path}: its speakers are not those that the model was begun with "
                f"({', '.join(speakers[:10])}); a run is resumed on the data it was begun on"
            )
        model = config.model.model_copy(update={"speakers": speakers})
        self.config = config.model_copy(update={"model": model})
        self.speakers = speakers
        self.model = SpeechVQVAE(model, data.preprocessing.sample_rate)
        self.module: nn.Module = self.model
        self.items = split_items(source, data.holdout, config.train.seed)
        self.record = describe_items(source, *self.items)
        self.clips = CachedClips(source, data)
        self.skipped = Skipped(data.on_error, self.items.train)
        codes = -(-data.crop // model.stride)
        self.shape = CropShape(codes, self.model.margin, model.stride)
        lengths = self._lengths(self.items.train)
        # Each recording as often as crops fit into it, once at least.
        counts = np.maximum(1, np.rint(lengths / (codes * model.stride))).astype(np.int64)
        self.pieces = np.repeat(np.arange(len(counts)), counts)
        self.variance = self._variance()

    @property
    def data(self) -> AudioSource:
        """The recordings."""
        return self.clips.source

    def start(self, device: torch.device) -> None:
        """Start the codebook from training audio, and fit the target's scale to it."""
        wanted = 4 * self.config.model.quantizer.codebook_size
        vectors: list[Tensor] = []
        crops: list[Tensor] = []
        valid_mask: list[Tensor] = []
        speakers: list[Tensor] = []
        # In the order of an epoch, so that all speakers are heard.
        for batch in self.batches(range(1 + wanted), 0, 1):
            audio = torch.from_numpy(batch.audio).to(device)
            with torch.no_grad():
                vectors.append(self.model.encoder.body(audio))
            crops.append(audio)
            valid_mask.append(torch.from_numpy(batch.valid_mask).to(device))
            speakers.append(torch.from_numpy(batch.speakers).to(device))
            latents = sum(v.shape[0] * v.shape[2] for v in vectors)
            if latents >= wanted and sum(map(len, crops)) >= _FITTED * (1 + len(self.speakers)):
                break
        self.model.quantizer.start_from(torch.cat(vectors)[:, :, None])
        if self.model.target is not None:
            self.model.target.fit(torch.cat(crops), torch.cat(valid_mask), torch.cat(speakers))

    def batches(self, steps: range, rank: int, world: int) -> Iterator[Crops]:
        """This process's crops of each step."""
        last = max(steps.start, min(steps.stop, self.config.model.target_steps))
        for part in (range(steps.start, last), range(last, steps.stop)):
            if part:
                yield from training_crops(
                    self.clips,
                    self.items.train,
                    self.pieces,
                    self.shape,
                    batch_size=self.batch_size(part.start),
                    seed=self.config.train.seed,
                    steps=part,
                    rank=rank,
                    world=world,
                    skipped=self.skipped,
                )

    def batch_size(self, step: int) -> int:
        """Crops of a step; there may be more of them while the decoder rests."""
        first = self.config.data.target_batch if step < self.config.model.target_steps else None
        return first or self.config.train.batch_size

    def losses(self, module: nn.Module, batch: Crops, device: torch.device) -> Tensor:
        """`figures` of a batch."""
        return torch.stack(list(self._losses(module, batch, device)))

    def _losses(self, module: nn.Module, batch: Crops, device: torch.device) -> tuple[Tensor, ...]:
        around = self.shape.margin - self.model.decoder_context
        valid_mask = torch.from_numpy(
            batch.valid_mask[:, around : batch.valid_mask.shape[1] - around]
        )
        losses: tuple[Tensor, ...] = module(
            torch.from_numpy(batch.audio).to(device),
            valid_mask.to(device),
            torch.from_numpy(batch.speakers).to(device),
            self.variance,
        )
        return losses

    def frozen(self) -> Iterable[nn.Parameter]:
        """The decoder's, in the first steps where the recipe says so."""
        return self.model.decoder.parameters() if self.model.decoder_frozen else ()

    def evaluate(self, device: torch.device, picture: Path) -> Figures:
        """Held-out figures, a picture of clips, and their sound beside it."""
        usage = CodeUsage(self.config.model.quantizer.codebook_size, 1)
        items = self.items.held_out[:: max(1, len(self.items.held_out) // _EVALUATION_CROPS)]
        sums, count = np.zeros(len(self.figures)), 0
        for start in range(0, len(items), _EVALUATION_BATCH):
            batch = self._held_out(items[start : start + _EVALUATION_BATCH])
            if batch is None:
                continue
            losses = self._losses(self.model, batch, device)
            sums += len(batch.audio) * np.array([float(loss) for loss in losses])
            count += len(batch.audio)
            margin = self.model.encoder.context
            z = self.model.encoder.body(torch.from_numpy(batch.audio).to(device))
            codes = self.model.quantizer.encode(z[:, :, None, margin:-margin])[:, 0, :, 0]
            valid_mask = batch.valid_mask[:, margin : margin + codes.shape[1]]
            usage.update(codes.cpu().numpy()[valid_mask][:, None, None])
        if not count:
            raise self.skipped.nothing_left("all held-out recordings")
        show_clips(self.model, self.config, self._shown(), picture, device)
        figures: Figures = dict(zip(self.figures, (sums / count).tolist(), strict=True))
        return figures | {"perplexity": usage.perplexity, "usage": usage.usage}

    def _shown(self) -> list[Shown]:
        """Some held-out recordings; instead of one that is skipped, the next."""
        items, none = self.items.held_out, len(self.speakers)
        shown: dict[str, Shown] = {}
        for place in sorted(spread(len(items), _SHOWN)):
            for item, audio in self._readable(items[place:] + items[:place]):
                speaker = none if item.label < 0 else item.label
                shown[item.name] = Shown(item.name, audio, speaker)
                break
        return list(shown.values())

    def _readable(self, items: list[Item]) -> Iterator[tuple[Item, Audio]]:
        """The items that can be read, each with its samples."""
        for item in items:
            try:
                audio = self.clips.read(item)
            except AudioError as error:
                self.skipped.add(item, error)
            else:
                yield item, audio

    def _held_out(self, items: list[Item]) -> Crops | None:
        """The beginnings of recordings; None where none can be read."""
        found = list(self._readable(items))
        if not found:
            return None
        drawn = [crop(audio, self.shape) for _, audio in found]
        none = len(self.config.model.speakers)
        labels = [none if item.label < 0 else item.label for item, _ in found]
        audio, valid_mask = (np.stack(part) for part in zip(*drawn, strict=True))
        return Crops(audio, valid_mask, np.array(labels, np.int64))

    def _lengths(self, items: list[Item]) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        """Samples of each recording; 0 of one that cannot be read."""
        source, preprocessing = self.clips.source, self.config.data.preprocessing

        def length(item: Item) -> int:
            try:
                return audio_length(source.path(item), preprocessing)
            except AudioError as error:
                self.skipped.add(item, error)
                return 0

        with ThreadPoolExecutor(self.config.data.workers) as pool:
            return np.fromiter(pool.map(length, items), np.int64, len(items))

    def _variance(self) -> float:
        """Of the samples of up to 200 training recordings drawn by seed."""
        train = self.items.train
        rng = np.random.default_rng([self.config.train.seed, 3])
        rows = rng.choice(len(train), min(200, len(train)), replace=False)
        squares, count = 0.0, 0
        for _, audio in self._readable([train[row] for row in rows]):
            squares += _sum_of_squares(audio)
            count += len(audio)
        if not count:
            raise self.skipped.nothing_left(f"all {len(rows)} recordings that were tried")
        return max(squares / count, 1e-6)


def _sum_of_squares(audio: Audio) -> float:
    """Of samples (T,), in float64: a piece at a time, so that a long recording is not copied."""
    pieces = (audio[start : start + _PIECE] for start in range(0, len(audio), _PIECE))
    return float(sum(np.square(piece, dtype=np.float64).sum() for piece in pieces))


def _open(data: SpeechDataConfig) -> AudioSource:
    require_local(data.path, "training reads it in random order")
    try:
        return open_speech(data.path, data.speaker_pattern, data.selection)
    except VqtrtError as error:
        # The path is often a recipe's, which the user never typed.
        raise VqtrtError(f"{error}; pass --data to name what to train on") from error
