"""What tokenizers of both modalities have in common: the engine, and where its model lies."""

from vqtrt.config.location import ModelLocation
from vqtrt.engines.base import Engine
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import ModelInfo


class Tokenizer:
    """A model on an engine. `batch_size` bounds how many items go through the engine at once."""

    def __init__(self, engine: Engine, batch_size: int, location: ModelLocation | None) -> None:
        if batch_size < 1:
            raise VqtrtError(f"batch size {batch_size}: must be at least 1")
        self.engine = engine
        self.batch_size = batch_size
        self.location = location
        """Where the model lies, for files that say which model made them; None if unknown."""

    @property
    def info(self) -> ModelInfo:
        """Codebook size, number of codebooks, and stride: pixels or samples per code."""
        return self.engine.info

    @property
    def codebook_size(self) -> int:
        """K: codes are 0 to K − 1."""
        return self.info.codebook_size

    @property
    def stride(self) -> int:
        """Pixels a side, or samples, that one code stands for."""
        return self.info.stride

    def located(self) -> ModelLocation:
        """`location`; raises `VqtrtError` if it is not known."""
        if self.location is None:
            raise VqtrtError(
                "the tokenizer does not know which model it is of: open it with vqtrt.load, or "
                "pass it a location"
            )
        return self.location
