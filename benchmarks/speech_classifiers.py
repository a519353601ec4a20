"""Who says which digit: two small classifiers of the Free Spoken Digit Dataset, trained here.

python benchmarks/speech_classifiers.py fsdd/recordings --cache classifiers

They are trained on the original training clips alone and judge what a model of speech makes of the
others. FSDD's own split: the clips 0 to 4 of each digit and speaker are for testing, 300 of 3,000.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vqtrt.data.audio.decode import AudioPreprocessing, read_audio
from vqtrt.data.audio.mel import mel_spectrogram
from vqtrt.data.audio.mulaw import mulaw_decode, mulaw_encode

Audio = NDArray[np.float32]

RATE = 8000
TEST_CLIPS = 5
"""Of each digit and speaker; the first ones."""
_SAMPLES = RATE
_MELS = {"n_fft": 256, "hop": 80, "n_mels": 40}
_FRAMES = _SAMPLES // _MELS["hop"]
_LEVEL = 0.06
_EPOCHS = 8
_BATCH = 50


class Clip(NamedTuple):
    """One recording of FSDD."""

    name: str
    audio: Audio
    """(T,) at 8 kHz."""
    digit: int
    speaker: str


class Fsdd(NamedTuple):
    """The data set, split."""

    train: list[Clip]
    test: list[Clip]


def is_test(name: str) -> bool:
    """Whether a recording, DIGIT_SPEAKER_INDEX.wav, is one of FSDD's test set."""
    return int(Path(name).stem.split("_")[2]) < TEST_CLIPS


def read_fsdd(folder: Path) -> Fsdd:
    """All recordings below the folder, in the order of their names."""
    found = Fsdd([], [])
    for path in sorted(folder.glob("*.wav")):
        digit, speaker, _ = path.stem.split("_")
        audio = read_audio(path, AudioPreprocessing(sample_rate=RATE))
        clip = Clip(path.name, audio, int(digit), speaker)
        (found.test if is_test(path.name) else found.train).append(clip)
    if not found.train or not found.test:
        raise SystemExit(f"{folder}: holds no FSDD recordings, DIGIT_SPEAKER_INDEX.wav")
    return found


class _Classifier(nn.Module):
    """Convolutions over a log-mel spectrogram (N, frames, mels), and logits (N, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, pool in ((1, 16, 2), (16, 32, 2), (32, 48, 2), (48, 64, 1)):
            convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(pool)]
        self.body = nn.Sequential(*layers)
        width = 2 * 64 * (_MELS["n_mels"] // 8)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x[:, None])
        # Over time, so that it does not matter when it is said.
        return self.head(torch.cat([x.amax(dim=2), x.mean(dim=2)], dim=1).flatten(1))


class Classifiers:
    """A classifier of digits and one of speakers."""

    def __init__(self, speakers: Sequence[str]) -> None:
        self.speakers = tuple(speakers)
        self.models = nn.ModuleDict(
            {"digit": _Classifier(10), "speaker": _Classifier(len(self.speakers))}
        )

    def digit(self, clips: Sequence[Audio]) -> NDArray[np.int64]:
        """The digit 0 to 9 of each clip (T,) at 8 kHz: (n,)."""
        return self._classify("digit", clips)

    def speaker(self, clips: Sequence[Audio]) -> NDArray[np.int64]:
        """The place in `speakers` of each clip (T,) at 8 kHz: (n,)."""
        return self._classify("speaker", clips)

    def save(self, path: Path) -> None:
        """Write the weights as safetensors."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(self.models.state_dict(), path, {"speakers": json.dumps(self.speakers)})

    def load(self, path: Path) -> None:
        """Read what `save` wrote."""
        self.models.load_state_dict(load_file(path))

    def _classify(self, name: str, clips: Sequence[Audio]) -> NDArray[np.int64]:
        model = self.models[name].eval()
        out = [np.zeros(0, np.int64)]
        with torch.inference_mode():
            for start in range(0, len(clips), 100):
                x = np.stack([_features(_fit(clip)) for clip in clips[start : start + 100]])
                out.append(model(torch.from_numpy(x)).argmax(dim=1).numpy())
        return np.concatenate(out)


def train_classifiers(
    train: Sequence[Clip], *, seed: int = 0, epochs: int = _EPOCHS
) -> Classifiers:
    """Train both on the clips, which are made louder, noisier, shifted, masked and coarser."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    classifiers = Classifiers(sorted({clip.speaker for clip in train}))
    targets = {
        "digit": np.array([clip.digit for clip in train]),
        "speaker": np.array([classifiers.speakers.index(clip.speaker) for clip in train]),
    }
    models = classifiers.models.train()
    optimizer = torch.optim.AdamW(models.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = epochs * (len(train) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(epochs):
        order = rng.permutation(len(train))
        for start in range(0, len(train) - _BATCH + 1, _BATCH):
            batch = order[start : start + _BATCH]
            x = torch.from_numpy(np.stack([_disturbed(train[i].audio, rng) for i in batch]))
            losses = [
                F.cross_entropy(
                    models[name](x), torch.from_numpy(target[batch]), label_smoothing=0.1
                )
                for name, target in targets.items()
            ]
            optimizer.zero_grad()
            sum(losses, torch.zeros(())).backward()
            optimizer.step()
            schedule.step()
    return classifiers


def cached_classifiers(train: Sequence[Clip], cache: Path | None, seed: int = 0) -> Classifiers:
    """`train_classifiers`, or what it left in the folder `cache` before."""
    path = cache / f"fsdd-{seed}.safetensors" if cache else None
    if path and path.is_file():
        classifiers = Classifiers(sorted({clip.speaker for clip in train}))
        classifiers.load(path)
        return classifiers
    classifiers = train_classifiers(train, seed=seed)
    if path:
        classifiers.save(path)
    return classifiers


def _fit(audio: Audio, start: int = 0) -> Audio:
    """One second, its loudness brought to a level; what is longer is cut in the middle."""
    audio = audio * (_LEVEL / max(float(np.sqrt(np.mean(audio**2))), 1e-4))
    out = np.zeros(_SAMPLES, np.float32)
    first = max(0, (len(audio) - _SAMPLES) // 2)
    part = audio[first : first + _SAMPLES - start]
    out[start : start + len(part)] = part
    return out


def _features(audio: Audio) -> Audio:
    """Log-mel spectrogram (frames, mels) of a second, near 0 and of deviation near 1."""
    mels = mel_spectrogram(audio, RATE, **_MELS)[:_FRAMES]
    return np.asarray((mels + 10) / 2, np.float32)


def _disturbed(audio: Audio, rng: np.random.Generator) -> Audio:
    """Features of a clip as it might have been recorded elsewhere."""
    spare = max(0, _SAMPLES - len(audio))
    audio = _fit(audio, int(rng.integers(0, min(spare, RATE // 5) + 1)))
    audio = audio * np.float32(10 ** rng.uniform(-0.3, 0.3))
    if rng.random() < 0.7:
        noise = rng.standard_normal(len(audio)).astype(np.float32)
        # Some noise is as recorders make it, some has more of the lows.
        if rng.random() < 0.5:
            noise = np.convolve(noise, np.ones(8, np.float32) / 8**0.5, "same")
        audio = audio + noise * np.float32(_LEVEL * 10 ** rng.uniform(-2.5, -0.7))
    if rng.random() < 0.3:
        audio = mulaw_decode(mulaw_encode(np.clip(audio, -1, 1)))
    features = _features(audio)
    for axis, most in ((0, 12), (1, 6)):
        width = int(rng.integers(0, most + 1))
        first = int(rng.integers(0, features.shape[axis] - width + 1))
        np.moveaxis(features, axis, 0)[first : first + width] = features.mean()
    return features


def accuracies(classifiers: Classifiers, clips: Sequence[Clip]) -> dict[str, float]:
    """Shares of the original clips that are recognised, also after 8 bit of mu-law."""
    digits = np.array([clip.digit for clip in clips])
    speakers = np.array([classifiers.speakers.index(clip.speaker) for clip in clips])
    plain = [clip.audio for clip in clips]
    coarse = [mulaw_decode(mulaw_encode(audio)) for audio in plain]
    return {
        "digit": float((classifiers.digit(plain) == digits).mean()),
        "speaker": float((classifiers.speaker(plain) == speakers).mean()),
        "digit_mulaw": float((classifiers.digit(coarse) == digits).mean()),
        "speaker_mulaw": float((classifiers.speaker(coarse) == speakers).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of DIGIT_SPEAKER_INDEX.wav")
    parser.add_argument("--cache", type=Path, help="folder to keep the weights in")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.perf_counter()
    data = read_fsdd(arguments.data)
    classifiers = cached_classifiers(data.train, arguments.cache, arguments.seed)
    figures = accuracies(classifiers, data.test)
    figures |= {"test_clips": len(data.test), "seconds": time.perf_counter() - began}
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
