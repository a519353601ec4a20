"""The version of vqtrt, written here only; files name the version that wrote them."""

__version__ = "0.1.0"
