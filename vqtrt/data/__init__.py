"""Reading and writing data: lazy, in a fixed order, and without torch."""
