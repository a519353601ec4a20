import pytest
from doubles import EngineDouble

from vqtrt.engines.priors import find_prior, prior_name
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import PriorInfo


def prior(tokenizer: str = "f") -> PriorInfo:
    return PriorInfo(
        kind="wavenet",
        codebook_size=8,
        num_codebooks=1,
        width=8,
        classes=(),
        receptive_field=4,
        tokenizer_sha256=tokenizer * 64,
        weights_sha256="0" * 64,
    )


def engine(*names: str) -> EngineDouble:
    double = EngineDouble()
    double.priors = {name: prior() for name in names}
    return double


def test_the_only_prior_whatever_its_name():
    assert prior_name(engine("small"), None) == "small"
    assert prior_name(engine("small", "large"), "large") == "large"
    assert prior_name(engine("small"), "other") == "other"


def test_several_priors_have_to_be_chosen_from():
    with pytest.raises(VqtrtError, match=r"--prior: small, large$"):
        prior_name(engine("small", "large"), None)


def test_no_prior():
    with pytest.raises(VqtrtError, match="train-prior"):
        prior_name(engine(), None)
    with pytest.raises(VqtrtError, match=r"no prior 'x' \(it has: none\)"):
        find_prior(engine(), "x")


def test_a_prior_of_another_tokenizer():
    double = engine("small")
    assert find_prior(double, "small").codebook_size == 8
    double.priors = {"small": prior("e")}
    with pytest.raises(VqtrtError, match="another tokenizer"):
        find_prior(double, "small")


def test_a_prior_of_the_first_bundles_opens():
    stored = prior().model_dump()
    assert "reach" not in stored
    stored["reach"] = stored.pop("receptive_field")
    assert PriorInfo.model_validate(stored).receptive_field == 4
