"""Engines: what runs a model's graphs. One backend a file, one small protocol (`base.py`)."""

from vqtrt.engines.base import BoundGraph, Engine, Graph
from vqtrt.engines.choose import ENGINES, installed, open_engine

__all__ = ["ENGINES", "BoundGraph", "Engine", "Graph", "installed", "open_engine"]
