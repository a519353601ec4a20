"""Speakers by name and by number: a number is a speaker's place among those that a model knows."""

from collections.abc import Sequence

from vqtrt.errors import VqtrtError
from vqtrt.formats.audio_codes import ClipCodes
from vqtrt.system.names import brief

Speakers = Sequence[int | str] | str | None
"""A speaker for each clip, by name or number; one name for all; None where there are none."""


def numbered(speakers: Speakers, known: Sequence[str], count: int) -> list[int]:
    """The number of each of `count` clips' speakers; `VqtrtError` for a name that is not known."""
    if speakers is None:
        if known:
            raise VqtrtError(f"speakers: name one, of {', '.join(known)}")
        return [0] * count
    if isinstance(speakers, str):
        return [speaker_number(known, speakers)] * count
    return [
        speaker_number(known, each) if isinstance(each, str) else int(each) for each in speakers
    ]


def speaker_number(known: Sequence[str], name: str) -> int:
    """A speaker's number, by name; `VqtrtError`, which names those that are known, for others."""
    if name in known:
        return known.index(name)
    if not known:
        raise VqtrtError(f"speaker {brief(name)}: the model knows no speakers; leave --speaker out")
    raise VqtrtError(f"speaker {brief(name)}: unknown to the model; it knows {', '.join(known)}")


def speaker_numbers(codes: ClipCodes, known: Sequence[str], speaker: str | None) -> list[int]:
    """Each clip's speaker as a number of the model: `speaker`, or else its own, found by name.

    The count of `known` stands for none, where the model knows none. Raises `VqtrtError` for a
    clip without a speaker that is known.
    """
    if speaker is not None:
        return [speaker_number(known, speaker)] * len(codes)
    if not known:
        return [0] * len(codes)
    names = codes.header.classes if codes.header else ()
    numbers = [known.index(name) if name in known else None for name in names]
    found = []
    for index in range(len(codes)):
        label = codes.labels[index] if codes.labels else -1
        number = numbers[label] if label >= 0 else None
        if number is None:
            own = "has no speaker"
            if label >= 0:
                own = f"is of {brief(names[label])}, unknown to the model"
            raise VqtrtError(
                f"{codes.path}: {codes.name(index)} {own}; give a speaker with --speaker: "
                f"{', '.join(known)}"
            )
        found.append(number)
    return found
