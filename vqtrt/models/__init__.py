"""The torch side of a model: what is trained, and the forms that are exported."""
