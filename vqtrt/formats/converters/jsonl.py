"""A line of JSON for each item (`.jsonl`)."""

import json
from collections.abc import Iterator
from pathlib import Path

from vqtrt.formats.codes import Header
from vqtrt.formats.shard_codes import Coded


def write_jsonl(path: Path, header: Header, items: Iterator[Coded]) -> None:
    """Write `id`, `class_id` (-1 for none), `tokens` (flat) and, of audio, `samples`."""
    with path.open("w", encoding="ascii") as file:
        for item in items:
            line = {"id": item.name, "class_id": item.label, "tokens": item.codes.ravel().tolist()}
            if item.samples is not None:
                line["samples"] = item.samples
            file.write(json.dumps(line) + "\n")
