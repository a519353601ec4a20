"""Names of the views of an image, for those who read codes; `data/images/views.py` makes them."""

from typing import Literal

Views = Literal["flip", "ten-crop"]
COUNTS: dict[str, int] = {"flip": 2, "ten-crop": 10}
"""Views of an image."""
