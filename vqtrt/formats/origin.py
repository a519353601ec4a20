"""Which tokenizer made codes: one check for decoding, scoring, priors and prefixes.

Tokenizers are told apart by the SHA-256 of the trained weights.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vqtrt.errors import VqtrtError

if TYPE_CHECKING:
    from vqtrt.formats.codes import Header


def of_another(header: "Header | None", weights_sha256: str) -> bool:
    """Whether codes say that another tokenizer made them; a bare .npy says nothing."""
    return header is not None and header.weights_sha256 != weights_sha256


def require_origin(codes: Path, header: "Header | None", weights_sha256: str, items: str) -> None:
    """Raise `VqtrtError` for codes of another tokenizer; `items` are what to encode again."""
    if of_another(header, weights_sha256):
        raise VqtrtError(
            f"{codes}: these are codes of another tokenizer; encode the {items} with this model"
        )


def warn_of_others(
    codes: Path, header: "Header | None", weights_sha256: str, note: Callable[[str], None]
) -> None:
    """Tell that another model made codes that are about to be decoded."""
    if header is not None and of_another(header, weights_sha256):
        note(f"warning: another model made {codes}: {header.model.get('path')}")
