"""`vqtrt bench`: how fast data becomes codes, and codes data."""
