"""Recordings as float32 mono at a model's rate."""

from pydantic import BaseModel, ConfigDict, Field


class AudioPreprocessing(BaseModel):
    """Part of a model: recorded in its config and its bundle, so encode repeats what train did."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample_rate: int = Field(16000, ge=1000, le=192000)
    """Samples a second that recordings are brought to."""
    level_db: float | None = Field(None, ge=-80, le=0)
    """Level that each recording is brought to, RMS in dB of full scale; None leaves it alone."""
