"""Engines: what runs a model's graphs. One backend a file, one small protocol (`base.py`)."""

from vqtrt.engine_options import AUTO, ENGINES, EngineOptions
from vqtrt.engines.base import BoundGraph, Engine, Graph, StepLoop
from vqtrt.engines.choose import installed, open_engine

__all__ = [
    "AUTO",
    "ENGINES",
    "BoundGraph",
    "Engine",
    "EngineOptions",
    "Graph",
    "StepLoop",
    "installed",
    "open_engine",
]
