"""The priors of an opened model."""

from vqtrt.engines.base import Engine
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import PriorInfo


def find_prior(engine: Engine, name: str) -> PriorInfo:
    """The facts of a model's prior; `VqtrtError` where there is none, or one of other codes."""
    facts = engine.priors.get(name)
    if facts is None:
        known = ", ".join(engine.priors) or "none"
        raise VqtrtError(
            f"the model has no prior {name!r} (it has: {known}); `vqtrt train-prior` trains one, "
            "and `vqtrt export` brings it into the bundle"
        )
    if facts.tokenizer_sha256 != engine.weights_sha256:
        raise VqtrtError(
            f"the prior {name!r} was trained on the codes of another tokenizer than this model: "
            "train it again on codes of this one"
        )
    return facts
