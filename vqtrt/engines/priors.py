"""The priors of an opened model."""

from vqtrt.engines.base import Engine
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import PriorInfo


def prior_name(engine: Engine, name: str | None) -> str:
    """The prior that is meant: `name`, or the only one; `VqtrtError` if that is not decided."""
    if name is not None or len(engine.priors) == 1:
        return name or next(iter(engine.priors))
    if engine.priors:
        raise VqtrtError(
            f"the model has several priors: choose one with --prior: {', '.join(engine.priors)}"
        )
    raise VqtrtError(
        "the model has no prior: `vqtrt train-prior` trains one, and `vqtrt export` brings it into "
        "the bundle"
    )


def find_prior(engine: Engine, name: str) -> PriorInfo:
    """A model's prior; `VqtrtError` if there is none, or it is of other codes."""
    info = engine.priors.get(name)
    if info is None:
        known = ", ".join(engine.priors) or "none"
        raise VqtrtError(
            f"the model has no prior {name!r} (it has: {known}); `vqtrt train-prior` trains one, "
            "and `vqtrt export` brings it into the bundle"
        )
    if info.tokenizer_sha256 != engine.weights_sha256:
        raise VqtrtError(
            f"the prior {name!r} was trained on the codes of another tokenizer than this model: "
            "train it again on codes of this one"
        )
    return info
