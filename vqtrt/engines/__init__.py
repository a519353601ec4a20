"""Engines: what runs a model's graphs. One backend a file, one small protocol (`base.py`)."""
