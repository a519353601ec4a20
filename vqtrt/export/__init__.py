"""From a trained run, or from modules of one's own, to files that run without torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqtrt.export.own.tokenizer import export_tokenizer
    from vqtrt.export.own.verify import verify_tokenizer

__all__ = ["export_tokenizer", "verify_tokenizer"]


def __getattr__(name: str) -> Any:
    """`export_tokenizer` and `verify_tokenizer`, imported when they are asked for: with torch."""
    if name == "export_tokenizer":
        from vqtrt.export.own.tokenizer import export_tokenizer

        return export_tokenizer
    if name == "verify_tokenizer":
        from vqtrt.export.own.verify import verify_tokenizer

        return verify_tokenizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
