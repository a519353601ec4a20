"""What a model of spoken digits keeps, and whether it converts voices: judged by classifiers.

python benchmarks/speech_digits.py fsdd/recordings --train-folder fsdd/train
vqtrt train digits --data fsdd/train && vqtrt export runs/digits
python benchmarks/speech_digits.py fsdd/recordings --model runs/digits --out digits

The first line links what the model may be trained on, FSDD's own training clips. The last encodes
the other 300, decodes them as their own speaker and as others, and prints one JSON: shares of the
clips whose digit and speaker two classifiers recognise, which were trained on original training
clips (`speech_classifiers.py`). Chance is 0.1 for digits and 0.17 for speakers.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from speech_classifiers import (
    RATE,
    Audio,
    Classifiers,
    Clip,
    accuracies,
    cached_classifiers,
    is_test,
    read_fsdd,
)

from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.config.location import find_model
from vqtrt.data.audio.decode import read_audio, write_wav
from vqtrt.engines.choose import open_engine
from vqtrt.engines.options import EngineOptions
from vqtrt.errors import VqtrtError

Pairs = list[tuple[int, str]]
"""Clips by index, each with the name of another speaker."""

EXAMPLES = 6


def decode(
    tokenizer: AudioTokenizer, codes: Sequence[NDArray[Any]], speakers: Sequence[int]
) -> list[Audio]:
    """Audio (t·stride,) of codes (t,), each as the model's speaker of that number."""
    return tokenizer.decode(codes, speakers)


def conversions(clips: Sequence[Clip], speakers: Sequence[str], *, every: bool, seed: int) -> Pairs:
    """Clips by index, each with another speaker: one drawn, or every other."""
    rng, pairs = np.random.default_rng(seed), list[tuple[int, str]]()
    for index, clip in enumerate(clips):
        others = [name for name in speakers if name != clip.speaker]
        chosen = others if every else [others[rng.integers(len(others))]]
        pairs += [(index, name) for name in chosen]
    return pairs


def report(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    began = time.perf_counter()
    data = read_fsdd(arguments.data)
    classifiers = cached_classifiers(data.train, arguments.cache, arguments.seed)
    trained = time.perf_counter()
    model = find_model(arguments.model)
    tokenizer = AudioTokenizer(
        open_engine(model, EngineOptions(arguments.engine)), temperature=arguments.temperature
    )
    speakers = tokenizer.speech.speakers
    if tokenizer.preprocessing.sample_rate != RATE or set(speakers) != set(classifiers.speakers):
        raise SystemExit(
            f"{model.path}: is not of FSDD at {RATE} Hz, but of {tokenizer.preprocessing} and "
            f"{', '.join(speakers) or 'no speakers'}"
        )
    clips = data.test
    audio = [read_audio(arguments.data / clip.name, tokenizer.preprocessing) for clip in clips]
    codes = tokenizer.encode(audio)
    encoded = time.perf_counter()
    pairs = conversions(clips, speakers, every=arguments.every, seed=arguments.seed)
    wanted = [(i, clip.speaker) for i, clip in enumerate(clips)] + pairs
    decoded = decode(
        tokenizer, [codes[i] for i, _ in wanted], [speakers.index(name) for _, name in wanted]
    )
    decoded = [out[: len(audio[i])] for (i, _), out in zip(wanted, decoded, strict=True)]
    rebuilt, converted = decoded[: len(clips)], decoded[len(clips) :]
    done = time.perf_counter()
    if arguments.out:
        write_examples(arguments.out, clips, audio, rebuilt, pairs, converted)
    seconds = sum(len(out) for out in decoded) / RATE
    return {
        "model": str(model.path),
        "temperature": arguments.temperature,
        "engine": tokenizer.engine.name,
        "decoder": tokenizer.speech.decoder,
        "codebook_size": tokenizer.codebook_size,
        "codes_per_second": RATE / tokenizer.stride,
        "test_clips": len(clips),
        "conversions": len(pairs),
        "originals": accuracies(classifiers, clips),
        "reconstructions": shares(classifiers, rebuilt, clips),
        "converted": converted_shares(classifiers, converted, pairs, clips),
        "seconds": {
            "classifiers": trained - began,
            "encode": encoded - trained,
            "decode": done - encoded,
            "decoded_audio": seconds,
        },
    }


def shares(
    classifiers: Classifiers, audio: Sequence[Audio], clips: Sequence[Clip]
) -> dict[str, float]:
    """Of the clips, in order: those whose digit, and whose speaker is recognised."""
    speakers = np.array([classifiers.speakers.index(clip.speaker) for clip in clips])
    digits = np.array([clip.digit for clip in clips])
    return {
        "digit": float((classifiers.digit(audio) == digits).mean()),
        "speaker": float((classifiers.speaker(audio) == speakers).mean()),
    }


def converted_shares(
    classifiers: Classifiers, audio: Sequence[Audio], pairs: Pairs, clips: Sequence[Clip]
) -> dict[str, Any]:
    """Of the conversions: whose voice they are heard in, and whether the digit is."""
    index = classifiers.speakers.index
    heard = classifiers.speaker(audio)
    targets = np.array([index(name) for _, name in pairs])
    sources = np.array([index(clips[i].speaker) for i, _ in pairs])
    digits = np.array([clips[i].digit for i, _ in pairs])
    right = classifiers.digit(audio) == digits
    return {
        "target_speaker": float((heard == targets).mean()),
        "source_speaker": float((heard == sources).mean()),
        "digit": float(right.mean()),
        "target_speaker_and_digit": float(((heard == targets) & right).mean()),
        "heard_as": {
            target: {
                name: int(((targets == index(target)) & (heard == i)).sum())
                for i, name in enumerate(classifiers.speakers)
            }
            for target in classifiers.speakers
        },
    }


def write_examples(
    out: Path,
    clips: Sequence[Clip],
    audio: Sequence[Audio],
    rebuilt: Sequence[Audio],
    pairs: Pairs,
    converted: Sequence[Audio],
) -> None:
    """Wavs and a picture of some clips: of every speaker in turn, and of other digits each."""
    from vqtrt.data.audio.waveforms import clips_picture

    out.mkdir(parents=True, exist_ok=True)
    rows = []
    of = {i: (name, sound) for (i, name), sound in zip(pairs, converted, strict=True)}
    speakers = sorted({clip.speaker for clip in clips})
    for number in range(EXAMPLES):
        speaker = speakers[number % len(speakers)]
        i = next(
            i for i, c in enumerate(clips) if c.speaker == speaker and c.digit == number * 3 % 10
        )
        name, sound = of[i]
        stem = Path(clips[i].name).stem
        row = [("original", audio[i]), ("reconstruction", rebuilt[i]), (f"as {name}", sound)]
        rows.append((stem, row))
        for caption, samples in row:
            write_wav(out / f"{stem}-{caption.replace(' ', '-')}.wav", samples, RATE)
    clips_picture(out / "clips.png", rows, RATE)


def link_training_clips(data: Path, out: Path) -> int:
    """Link the training clips into a folder, for a model to be trained on; returns how many."""
    out.mkdir(parents=True)
    names = [path.name for path in sorted(data.glob("*.wav")) if not is_test(path.name)]
    for name in names:
        (out / name).symlink_to(os.path.relpath(data / name, out))
    return len(names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of DIGIT_SPEAKER_INDEX.wav")
    parser.add_argument("--model", help="run or bundle (default: the newest run)")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--temperature", type=float, default=1.0, help="of a WaveNet decoder")
    parser.add_argument("--every", action="store_true", help="convert to all five other speakers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="folder that keeps the classifiers' weights")
    parser.add_argument("--out", type=Path, help="folder for examples: wavs and a picture")
    parser.add_argument("--train-folder", type=Path, help="link the training clips here, and stop")
    arguments = parser.parse_args()
    if arguments.train_folder:
        print(f"{link_training_clips(arguments.data, arguments.train_folder)} clips")
        return
    try:
        print(json.dumps(report(arguments), indent=2))
    except VqtrtError as error:
        raise SystemExit(f"benchmarks/speech_digits.py: {error}") from error


if __name__ == "__main__":
    main()
