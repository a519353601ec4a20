"""The commands of speech: `convert` and `probe`; and `encode`, `decode` and `eval` of speech."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqtrt.commands.options import (
    Exclude,
    Include,
    Json,
    LevelDb,
    Model,
    OnErrorName,
    OnErrorOption,
    ResumeJob,
    Seed,
    SpeakerPattern,
    Temperature,
    Workers,
    Written,
    open_named,
    refuse,
    selection,
    skippable,
    tell_passed_over,
    tell_speaker,
    warn_of_others,
    with_engine,
    with_kinds,
    worker_count,
)
from vqtrt.engines.options import AUTO, EngineOptions

if TYPE_CHECKING:
    from vqtrt.audio.tokenizer import AudioTokenizer
    from vqtrt.config.location import ModelLocation
    from vqtrt.data.audio.decode import AudioPreprocessing
    from vqtrt.data.selection import Selection
    from vqtrt.engines.base import Engine as OpenedEngine
    from vqtrt.jobs.encode import EncodeResult
    from vqtrt.jobs.progress import Resumed

BATCH = 16
"""Recordings in one engine call, where `--batch-size` does not say."""

Recordings = Annotated[
    str, typer.Argument(help="Folder of recordings, the VCTK corpus, or a file.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Recordings in one engine call.")]


class SplitByName(StrEnum):
    """What `--by` takes; the same names as `vqtrt.audio.probe.Split.by`."""

    UTTERANCE = "utterance"
    SPEAKER = "speaker"


@with_engine
def convert(
    data: Recordings,
    speaker: Annotated[str, typer.Option(help="Whose voice it becomes: a speaker of the model.")],
    out: Annotated[Path, typer.Option(help="A .wav for one recording, else a folder.")],
    model: Model = None,
    engine: EngineOptions = AUTO,
    batch_size: BatchSize = BATCH,
    workers: Workers = None,
    on_error: OnErrorOption = OnErrorName.STOP,
    include: Include = None,
    exclude: Exclude = None,
    level_db: LevelDb = None,
    temperature: Temperature = None,
    seed: Seed = None,
    resume: ResumeJob = False,
    as_json: Json = False,
) -> None:
    """Voice conversion: re-synthesize recordings as another speaker."""
    from vqtrt.audio.convert import convert_speech
    from vqtrt.audio.source import open_recordings
    from vqtrt.commands import terminal
    from vqtrt.data.folder import passed_over
    from vqtrt.data.rejects import reject_kinds

    found, opened = open_named(model, engine)
    tokenizer = _tokenizer(opened, batch_size, temperature, seed)
    source = open_recordings(found, data, selection=selection(include, exclude))
    written = Written()
    with terminal.counting("converting") as counter, skippable():
        result = convert_speech(
            tokenizer,
            source,
            out,
            root=data,
            speaker=speaker,
            preprocessing=_levelled(tokenizer, level_db),
            workers=worker_count(workers),
            on_error=on_error.value,
            note=terminal.note,
            resume=resume,
            resumed=written.resumed,
            progress=counter,
        )
    tell_passed_over(passed_over(source), speech=True)
    _tell(result.rejected)
    what = f"{result.recordings} recordings as {speaker}"
    written.tell(out, result.recordings, f"recordings as {speaker}", f"wrote {what}: {out}")
    if as_json:
        rejected = [{"file": name, "reason": reason} for name, reason in result.rejected]
        figures = {"out": str(out), "recordings": result.recordings, "speaker": speaker}
        kinds = {
            "passed_over": passed_over(source),
            "rejected_kinds": reject_kinds(result.rejected),
        }
        terminal.show(figures | {"rejected": rejected} | kinds, True)


@with_engine
def probe(
    data: Recordings,
    alignments: Annotated[Path, typer.Option(help="Folder of their TextGrids.")],
    tier: Annotated[
        str,
        typer.Option(help="Tier that has the phones: its name, or a pattern such as '*phones'."),
    ] = "phones",
    train_split: Annotated[
        float, typer.Option(help="Share that codes get their phones from; the rest is the test.")
    ] = 0.9,
    by: Annotated[SplitByName, typer.Option(help="What is split.")] = SplitByName.UTTERANCE,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another split.")] = 0,
    picture: Annotated[
        Path | None, typer.Option(help="PNG to write: how likely each phone is at each code.")
    ] = None,
    model: Model = None,
    engine: EngineOptions = AUTO,
    batch_size: BatchSize = BATCH,
    workers: Workers = None,
    on_error: OnErrorOption = OnErrorName.STOP,
    include: Include = None,
    exclude: Exclude = None,
    speaker_pattern: SpeakerPattern = None,
    as_json: Json = False,
) -> None:
    """Measure what codes know of phones: each stands for the one that it meets most often."""
    from vqtrt.audio.probe import Split
    from vqtrt.audio.probe_corpus import probe_speech
    from vqtrt.audio.probe_picture import probe_picture
    from vqtrt.audio.source import open_recordings
    from vqtrt.audio.tokenizer import AudioTokenizer
    from vqtrt.commands import terminal
    from vqtrt.data.grid import check_png
    from vqtrt.data.rejects import reject_kinds

    if picture is not None:
        check_png(picture)
    found, opened = open_named(model, engine)
    tokenizer = AudioTokenizer(opened, batch_size=batch_size)
    source = open_recordings(found, data, speaker_pattern, selection(include, exclude))
    tell_speaker(source)
    with terminal.counting("probing") as counter, skippable():
        result = probe_speech(
            tokenizer,
            source,
            alignments,
            tier=tier,
            split=Split(train_split, by.value, seed),
            workers=worker_count(workers),
            on_error=on_error.value,
            progress=counter,
        )
    _tell(result.rejected)
    if picture is not None:
        probe_picture(picture, result.probe)
    figures = result.probe.figures() | {"rejected": len(result.rejected)}
    kinds = {"rejected_kinds": reject_kinds(result.rejected)}
    terminal.show(with_kinds(figures | kinds, source, as_json), as_json)


def encode_recordings(
    model: "ModelLocation",
    engine: "OpenedEngine",
    data: str,
    out: Path,
    *,
    batch_size: int,
    workers: int,
    on_error: OnErrorName,
    level_db: float | None,
    speaker_pattern: str | None,
    chosen: "Selection",
    resume: bool,
) -> "EncodeResult":
    """`vqtrt encode` of speech."""
    from vqtrt.audio.encode import encode_source
    from vqtrt.audio.source import open_recordings
    from vqtrt.audio.tokenizer import AudioTokenizer
    from vqtrt.commands import terminal

    tokenizer = AudioTokenizer(engine, batch_size=batch_size)
    source = open_recordings(model, data, speaker_pattern, chosen)
    tell_speaker(source)
    with terminal.counting("encoding") as counter, skippable():
        return encode_source(
            tokenizer,
            source,
            out,
            root=data,
            model=model,
            preprocessing=_levelled(tokenizer, level_db),
            workers=workers,
            on_error=on_error.value,
            resume=resume,
            progress=counter,
        )


def decode_recordings(
    engine: "OpenedEngine",
    codes: Path,
    out: Path,
    *,
    batch_size: int,
    speaker: str | None,
    temperature: float | None,
    seed: int | None,
    resume: bool,
    resumed: "Resumed",
) -> int:
    """`vqtrt decode` of speech: how many wavs it wrote."""
    from vqtrt.audio.decode import decode_codes
    from vqtrt.commands import terminal
    from vqtrt.formats.audio_codes import read_clip_codes

    tokenizer = _tokenizer(engine, batch_size, temperature, seed)
    opened = read_clip_codes(codes)
    warn_of_others(codes, opened.header, engine)
    with terminal.counting("decoding") as counter:
        return decode_codes(
            tokenizer,
            opened,
            out,
            speaker=speaker,
            note=terminal.note,
            resume=resume,
            resumed=resumed,
            progress=counter,
        )


def evaluate_recordings(
    model: "ModelLocation",
    engine: "OpenedEngine",
    data: str,
    *,
    batch_size: int,
    workers: int,
    on_error: OnErrorName,
    grid: Path | None,
    prior: str | None,
    speaker: str | None,
    level_db: float | None,
    speaker_pattern: str | None,
    chosen: "Selection",
    as_json: bool,
) -> dict[str, Any]:
    """`vqtrt eval` of speech: its figures."""
    from vqtrt.audio.evaluate import evaluate_speech
    from vqtrt.audio.score import score_speech
    from vqtrt.audio.source import open_recordings
    from vqtrt.audio.tokenizer import AudioTokenizer
    from vqtrt.commands import terminal

    tokenizer = AudioTokenizer(engine, batch_size=batch_size)
    if prior is not None:
        with terminal.counting("scoring") as counter:
            return score_speech(
                tokenizer,
                model,
                data,
                prior,
                speaker_pattern=speaker_pattern,
                selection=chosen,
                workers=workers,
                progress=counter,
            )
    source = open_recordings(model, data, speaker_pattern, chosen)
    tell_speaker(source)
    with terminal.counting("evaluating") as counter, skippable():
        figures = evaluate_speech(
            tokenizer,
            source,
            root=data,
            speaker=speaker,
            preprocessing=_levelled(tokenizer, level_db),
            workers=workers,
            on_error=on_error.value,
            grid=grid,
            progress=counter,
        )
    return with_kinds(figures, source, as_json)


def _tokenizer(
    engine: "OpenedEngine", batch_size: int, temperature: float | None, seed: int | None
) -> "AudioTokenizer":
    """The model, with what only a WaveNet decoder takes."""
    from vqtrt.audio.tokenizer import AudioTokenizer

    if engine.speech is not None and engine.speech.decoder == "conv":
        refuse({"temperature": temperature, "seed": seed}, "a WaveNet decoder", "a conv decoder")
    return AudioTokenizer(
        engine,
        batch_size=batch_size,
        temperature=1.0 if temperature is None else temperature,
        seed=seed or 0,
    )


def _levelled(tokenizer: "AudioTokenizer", level_db: float | None) -> "AudioPreprocessing | None":
    """The model's preprocessing with the level of `--level-db`; None for its own."""
    from vqtrt.data.audio.decode import AudioPreprocessing

    if level_db is None:
        return None
    return AudioPreprocessing(sample_rate=tokenizer.preprocessing.sample_rate, level_db=level_db)


def _tell(rejected: Sequence[tuple[str, str]]) -> None:
    """Which recordings were passed over, and why: there is no codes file that would say."""
    from vqtrt.commands import terminal

    for name, reason in rejected:
        terminal.note(f"rejected {name}: {reason}")
