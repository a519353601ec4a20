import pytest
from pydantic import ValidationError

from vqtrt.config.audio import SpeechPriorConfig
from vqtrt.config.images import (
    RECIPES,
    Config,
    load_any_config,
    load_config,
    load_prior_config,
    load_speech_config,
)
from vqtrt.config.settings import parse_settings, recipe_names
from vqtrt.errors import VqtrtError


def problem(*overrides, recipe="shapes"):
    with pytest.raises(VqtrtError) as error:
        load_config(recipe, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_recipes():
    assert {"shapes", "cifar10", "cifar10-small", "imagenet"} <= set(recipe_names(RECIPES))
    assert recipe_names(RECIPES) == sorted(recipe_names(RECIPES))


@pytest.mark.parametrize("name", recipe_names(RECIPES / "priors"))
def test_every_prior_of_the_recipes_sees_all_of_its_grid_or_a_good_part_of_its_crop(name):
    config = load_prior_config(name)
    if isinstance(config, SpeechPriorConfig):
        assert 32 <= config.prior.receptive_field <= config.data.crop
    else:
        prior = config.prior.fitted(8, 8)
        assert prior.receptive_field(prior.kernel) >= 7


@pytest.mark.parametrize("name", recipe_names(RECIPES))
def test_every_recipe_loads_and_survives_yaml(name, tmp_path):
    config = load_any_config(name)
    assert config.recipe == name
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_any_config(tmp_path / "config.yaml") == config


def test_settings_of_the_other_kind_are_refused_in_words():
    with pytest.raises(VqtrtError, match="digits: is of speech, and this is for images"):
        load_config("digits")
    with pytest.raises(VqtrtError, match="shapes: is of images"):
        load_speech_config("shapes")


def test_a_decoder_is_the_papers_unless_it_is_named():
    assert load_speech_config("digits", ["model.decoder.hop=32"]).model.decoder.kind == "wavenet"
    assert load_speech_config("digits", ["model.decoder={kind: conv}"]).model.decoder.kind == "conv"
    with pytest.raises(VqtrtError, match="expected tags: 'wavenet', 'conv'"):
        load_speech_config("digits", ["model.decoder.kind=flow"])


def test_yaml_keeps_odd_values(tmp_path):
    config = parse_settings(
        Config,
        {
            "data": {"path": "größe: [1] # no\ncomment"},
            "train": {"learning_rate": 1e-05 / 3, "seed": 2**63 - 1},
            "model": {"quantizer": {"epsilon": 1e-300, "beta": 0}},
        },
        "here",
    )
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(tmp_path / "config.yaml") == config


def test_the_papers_settings():
    cifar, imagenet = load_config("cifar10"), load_config("imagenet")
    for config in (cifar, imagenet):
        assert config.model.quantizer.codebook_size == 512
        assert config.model.stride == 4
        train = config.train
        assert (train.batch_size, train.learning_rate, train.steps) == (128, 2e-4, 250_000)
    assert cifar.model.quantizer.num_codebooks == 10


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("train.learning_rate=1e-4", lambda c: c.train.learning_rate == 1e-4),
        ("train.learning_rate=0.5", lambda c: c.train.learning_rate == 0.5),
        ("train.steps=1e3", lambda c: c.train.steps == 1000),
        ("train.mixed_precision=bf16", lambda c: c.train.mixed_precision == "bf16"),
        ("train.mixed_precision=no", lambda c: c.train.mixed_precision == "no"),
        ("model.quantizer.kind=gradient", lambda c: c.model.quantizer.kind == "gradient"),
        ("model.bridge=false", lambda c: c.model.bridge is False),
        ("model.stem_hidden=null", lambda c: c.model.stem_hidden is None),
        ("data.preprocessing.height=64", lambda c: c.data.preprocessing.height == 64),
        ("data.preprocessing={height: 8, width: 4}", lambda c: c.data.preprocessing.width == 4),
        ("data.path=a=b", lambda c: c.data.path == "a=b"),
        # What YAML would take for a number, a truth, a date, a list, nothing or a comment.
        ("data.path=2024", lambda c: c.data.path == "2024"),
        ("data.path=1e5", lambda c: c.data.path == "1e5"),
        ("data.path=nan", lambda c: c.data.path == "nan"),
        ("data.path=yes", lambda c: c.data.path == "yes"),
        ("data.path=2024-13-45", lambda c: c.data.path == "2024-13-45"),
        ("data.path=[a]", lambda c: c.data.path == "[a]"),
        ("data.path=~", lambda c: c.data.path == "~"),
        ("data.path=#1: x", lambda c: c.data.path == "#1: x"),
        ("data.path=shapes:500:3", lambda c: c.data.path == "shapes:500:3"),
    ],
)
def test_set(override, read):
    config = load_config("shapes", [override])
    assert read(config)
    assert config != load_config("shapes") or override.endswith("=no")


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("[a-z]+_(?P<speaker>[a-z]+)", "[a-z]+_(?P<speaker>[a-z]+)"),
        ("{2}: #(?P<speaker>.)", "{2}: #(?P<speaker>.)"),
        ("*(?P<speaker>&x)", "*(?P<speaker>&x)"),
        ("2024", "2024"),
        ("yes", "yes"),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_set_takes_an_optional_string_as_it_stands(text: str, pattern: str | None) -> None:
    config = load_speech_config("digits", [f"data.speaker_pattern={text}"])
    assert config.data.speaker_pattern == pattern


def test_set_takes_names_in_lists_and_choices_as_strings() -> None:
    config = load_speech_config("digits", ["model.speakers=[007, no, 1e3, ann]"])
    assert config.model.speakers == ("007", "no", "1e3", "ann")
    assert load_config("shapes", ["train.mixed_precision=no"]).train.mixed_precision == "no"
    with pytest.raises(VqtrtError, match="not a valid YAML value"):
        load_speech_config("digits", ["model.speakers=["])


def test_set_keeps_what_stands_beside_and_the_last_wins():
    config = load_config("shapes", ["train.steps=5", "train.steps=6", "model.hidden=8"])
    before = load_config("shapes")
    assert (config.train.steps, config.model.hidden) == (6, 8)
    assert config.train.batch_size == before.train.batch_size
    assert config.model.quantizer == before.model.quantizer


def test_unknown_settings_are_errors_with_a_suggestion():
    assert "unknown setting 'train.step'; did you mean 'train.steps'?" in problem("train.step=1")
    message = problem("model.quantizer.codebook_siz=9")
    assert "did you mean 'model.quantizer.codebook_size'?" in message
    assert "unknown setting 'zzz'; known here: format_version, recipe, train, model" in problem(
        "zzz=1"
    )
    assert "did you mean 'data.preprocessing.height'?" in problem("data.preprocessing.hight=1")
    assert "did you mean 'train'?" in problem("trian.steps=1")


@pytest.mark.parametrize("text", ["train.steps", "=5", ""])
def test_set_without_key_or_value(text):
    assert "expected key=value, such as train.steps=2000" in problem(text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=0", "train.steps: "),
        ("train.steps=many", "(got 'many')"),
        ("train.steps=", "train.steps: "),
        ("train.steps=[", "is not a valid YAML value"),
        ("train.steps=2024-13-45", "is not a valid YAML value"),
        ("train.steps=" + "[" * 5000, "is not a valid YAML value"),
        ("train.learning_rate=nan", "train.learning_rate: "),
        ("train.learning_rate=.inf", "train.learning_rate: "),
        ("model.quantizer.kind=vq", "'ema', 'gradient', 'cosine' or 'simvq'"),
        ("model.quantizer=5", "model.quantizer: "),
        ("data.path.x=1", "'path' is a value, not a group of settings"),
        ("recipe=../out", "recipe: "),
        ("format_version=2", "format_version: "),
    ],
)
def test_values_that_cannot_be(override, message):
    assert message in problem(override)


def test_a_size_that_the_stride_does_not_divide():
    message = problem("data.preprocessing.width=30")
    assert "32x30 pixels cannot be divided by the stride 4" in message
    assert "stride 8" in problem("model.strided_layers=3", "data.preprocessing.width=36")
    load_config("shapes", ["model.strided_layers=3", "data.preprocessing.width=40"])


def test_no_such_recipe():
    message = problem(recipe="cifar")
    assert "no recipe 'cifar': choose one of" in message
    assert "cifar10" in message
    assert "no such file" in problem(recipe="nowhere/a.yaml")
    assert "no such file" in problem(recipe="a.yml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("- 1\n- 2", "expected settings as `key: value`, found list"),
        ("hello", "found str"),
        ("train: 5", "train: "),
        ("1: 2", "1"),
        ("train: {1: 2}", "1"),
        ("a: 2024-13-45", "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("train: !!binary AAAA", "train: "),
    ],
)
def test_a_bad_file(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    told = problem(recipe=path)
    assert told.startswith(str(path))
    assert message in told


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    assert "cannot be read" in problem(recipe=tmp_path / "folder.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"recipe: \xff")
    assert "cannot be read" in problem(recipe=tmp_path / "latin.yaml")
    (tmp_path / "huge.yaml").write_bytes(b"#" * 2**21)
    assert "larger than" in problem(recipe=tmp_path / "huge.yaml")


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "a.yaml").touch()
    assert load_config(tmp_path / "a.yaml") == Config()


def test_a_config_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        Config().train.steps = 5
