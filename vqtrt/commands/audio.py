"""The commands of audio alone: `convert` and `probe`."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vqtrt.commands import terminal
from vqtrt.commands.options import (
    RECORDINGS,
    ClipBatch,
    DataOptions,
    FileOptions,
    JobOptions,
    Json,
    LevelDb,
    ModelOptions,
    Recordings,
    SoundOptions,
    SpeakerPattern,
    expanded,
)
from vqtrt.commands.outcome import Written, skippable, tell_passed_over, with_kinds
from vqtrt.data.urls import public_url


class SplitByName(StrEnum):
    """What `--by` takes; the same names as `vqtrt.audio.probe.Split.by`."""

    UTTERANCE = "utterance"
    SPEAKER = "speaker"


@expanded
def convert(
    data: Recordings,
    speaker: Annotated[str, typer.Option(help="Speaker of the model to convert to.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A .wav for one recording, else a folder.")
    ],
    batch_size: ClipBatch = RECORDINGS,
    options: FileOptions = FileOptions(),
    level_db: LevelDb = None,
    sound: SoundOptions = SoundOptions(),
    use: ModelOptions = ModelOptions(),
    job: JobOptions = JobOptions(),
) -> None:
    """Voice conversion: re-synthesize recordings as another speaker."""
    from vqtrt.audio.convert import convert_source
    from vqtrt.audio.source import open_recordings
    from vqtrt.commands.bars import counting
    from vqtrt.commands.on_audio import open_tokenizer, preprocessing
    from vqtrt.data.folder import passed_over
    from vqtrt.data.rejects import reject_kinds

    found, opened = use.open()
    tokenizer = open_tokenizer(opened, batch_size, sound)
    source = open_recordings(found, data, selection=options.selection)
    written = Written()
    with counting("converting") as counter, skippable():
        result = convert_source(
            tokenizer,
            source,
            out,
            root=public_url(data),
            speaker=speaker,
            preprocessing=preprocessing(tokenizer, DataOptions(level_db=level_db)),
            note=terminal.note,
            resume=job.resume,
            resumed=written.resumed,
            progress=counter,
            **options.reading,
        )
    tell_passed_over(passed_over(source), audio=True)
    _tell(result.rejected)
    what = f"{result.recordings} recordings as {speaker}"
    written.tell(out, result.recordings, f"recordings as {speaker}", f"wrote {what}: {out}")
    if job.as_json:
        terminal.show(
            {
                "out": str(out),
                "recordings": result.recordings,
                "speaker": speaker,
                "rejected": [{"file": name, "reason": reason} for name, reason in result.rejected],
                "passed_over": passed_over(source),
                "rejected_kinds": reject_kinds(result.rejected),
            },
            True,
        )


@expanded
def probe(
    data: Recordings,
    alignments: Annotated[Path, typer.Option(help="Folder of the recordings' TextGrids.")],
    tier: Annotated[
        str,
        typer.Option(help="Tier that has the phones: its name, or a pattern such as '*phones'."),
    ] = "phones",
    train_split: Annotated[
        float, typer.Option(help="Share of the data that codes are mapped to phones on.")
    ] = 0.9,
    by: Annotated[
        SplitByName, typer.Option(help="Unit that is split into training and test.")
    ] = SplitByName.UTTERANCE,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split.")] = 0,
    picture: Annotated[
        Path | None, typer.Option(help="PNG to write: probability of each phone for each code.")
    ] = None,
    batch_size: ClipBatch = RECORDINGS,
    options: FileOptions = FileOptions(),
    speaker_pattern: SpeakerPattern = None,
    use: ModelOptions = ModelOptions(),
    as_json: Json = False,
) -> None:
    """Phone probe: map each code to its most frequent phone and report the accuracy."""
    from vqtrt.audio.probe import Split
    from vqtrt.audio.probe_corpus import probe_source
    from vqtrt.audio.probe_picture import probe_picture
    from vqtrt.commands.bars import counting
    from vqtrt.commands.on_audio import open_source, open_tokenizer
    from vqtrt.data.grid import check_png
    from vqtrt.data.rejects import reject_kinds

    if picture is not None:
        check_png(picture)
    found, opened = use.open()
    tokenizer = open_tokenizer(opened, batch_size)
    chosen = DataOptions(**vars(options), speaker_pattern=speaker_pattern)
    source = open_source(found, [data], chosen)
    with counting("probing") as counter, skippable():
        result = probe_source(
            tokenizer,
            source,
            alignments,
            root=public_url(data),
            tier=tier,
            split=Split(train_split, by.value, seed),
            progress=counter,
            **options.reading,
        )
    _tell(result.rejected)
    if picture is not None:
        probe_picture(picture, result.probe)
    figures = result.probe.figures() | {
        "rejected": len(result.rejected),
        "rejected_kinds": reject_kinds(result.rejected),
    }
    terminal.show(with_kinds(figures, source, as_json, audio=True), as_json)


def _tell(rejected: Sequence[tuple[str, str]]) -> None:
    """Which recordings were skipped, and why: there is no codes file that would say."""
    for name, reason in rejected:
        terminal.note(f"rejected {name}: {reason}")
