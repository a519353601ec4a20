"""Engines: what runs a model's graphs. One backend a file, one small protocol (`base.py`)."""

from vqtrt.engines.base import Engine, Graph
from vqtrt.engines.choose import ENGINES, installed, open_engine

__all__ = ["ENGINES", "Engine", "Graph", "installed", "open_engine"]
