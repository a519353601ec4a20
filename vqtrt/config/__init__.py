"""Typed settings: recipes, YAML files and `--set`."""
