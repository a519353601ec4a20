"""What the shell completes: names of recipes and of priors."""

import os
from pathlib import Path
from typing import Any


def recipes(incomplete: str) -> list[str]:
    """Recipes of `vqtrt train`."""
    from vqtrt.config.images import RECIPES

    return _names(RECIPES, incomplete)


def prior_recipes(incomplete: str) -> list[str]:
    """Recipes of `vqtrt train-prior`."""
    from vqtrt.config.images import RECIPES

    return _names(RECIPES / "priors", incomplete)


def priors(ctx: Any, incomplete: str) -> list[str]:
    """Priors of the model that the command line names, or that is meant without it."""
    from vqtrt.config.location import find_model
    from vqtrt.errors import VqtrtError

    try:
        found = find_model(ctx.params.get("model"))
        names = set(found.open_bundle().info.priors) if found.bundle else set[str]()
        folder = Path(found.run or os.devnull) / "priors"
        names |= {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    except (VqtrtError, OSError):
        return []
    return sorted(name for name in names if name.startswith(incomplete))


def _names(folder: Path, incomplete: str) -> list[str]:
    from vqtrt.config.settings import recipe_names

    return [name for name in recipe_names(folder) if name.startswith(incomplete)]
