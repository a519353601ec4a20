"""A line of JSON for each item (`.jsonl`)."""

import json
from collections.abc import Iterator
from pathlib import Path

from vqtrt.formats.codes import CodesHeader, Header
from vqtrt.formats.shard_codes import Coded


def write_jsonl(path: Path, header: Header, items: Iterator[Coded]) -> None:
    """Write `id`, `class_id` (-1 for none), `tokens` (flat) and, of audio, `samples`.

    Each view of an image is a line, with its number as `view`.
    """
    views = isinstance(header, CodesHeader) and header.views
    with path.open("w", encoding="ascii") as file:
        for item in items:
            for view, codes in enumerate(item.codes if views else [item.codes]):
                line = {"id": item.name, "class_id": item.label, "tokens": codes.ravel().tolist()}
                if item.samples is not None:
                    line["samples"] = item.samples
                if views:
                    line["view"] = view
                file.write(json.dumps(line) + "\n")
