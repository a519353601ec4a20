import json
import pickle
import resource

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from vqtrt.errors import VqtrtError
from vqtrt.models import weights as saving
from vqtrt.models.weights import load_weights, save_weights
from vqtrt.training import checkpoints as module
from vqtrt.training.checkpoints import Checkpoints


def build(seed=0, width=3):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, torch.optim.Adam(model.parameters(), 1e-2)


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.randn(2, 3, 5, 5)).square().sum().backward()
    optimizer.step()


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Payload:
    """Pickled, it makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_weights_round_trip(tmp_path):
    model, optimizer = build()
    step(model, optimizer)
    save_weights(model, tmp_path / "model.safetensors")
    other, _ = build(seed=1)
    assert not same(model, other)
    load_weights(other, tmp_path / "model.safetensors")
    assert same(model, other)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_weights_of_another_model_are_one_line(tmp_path):
    save_weights(build()[0], tmp_path / "model.safetensors")
    with pytest.raises(VqtrtError, match="of another model") as error:
        load_weights(build(width=4)[0], tmp_path / "model.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("save", [pickle.dump, torch.save])
def test_a_pickle_is_refused_and_not_run(tmp_path, save):
    path, trace = tmp_path / "model.safetensors", tmp_path / "trace"
    with path.open("wb") as file:
        save({"0.weight": Payload(trace)}, file)
    with pytest.raises(VqtrtError, match="not readable as safetensors") as error:
        load_weights(build()[0], path)
    assert "\n" not in str(error.value)
    assert not trace.exists()


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_torn_weights_are_refused(tmp_path, cut):
    path = tmp_path / "model.safetensors"
    save_weights(build()[0], path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(VqtrtError, match="not readable as safetensors"):
        load_weights(build()[0], path)


def test_a_checkpoint_restores_model_and_optimizer(tmp_path):
    model, optimizer = build()
    for _ in range(3):
        step(model, optimizer)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    path = checkpoints.save(3, model, optimizer)
    assert sorted(file.name for file in path.iterdir()) == [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    other, other_optimizer = build(seed=1)
    assert checkpoints.load_newest(other, other_optimizer) == 3
    assert same(model, other)
    for each in (model, other):
        torch.manual_seed(5)
        step(each, optimizer if each is model else other_optimizer)
    assert same(model, other)


def test_restored_moments_lie_as_the_parameters_do(tmp_path):
    """Adam walks parameters and moments together: in another order it is slow on a GPU."""
    model, optimizer = build()
    step(model, optimizer)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, model, optimizer)
    other, other_optimizer = build(seed=1)
    checkpoints.load_newest(other, other_optimizer)
    weight = other[0].weight
    assert not weight.is_contiguous()
    assert other_optimizer.state[weight]["exp_avg"].stride() == weight.stride()


def test_the_newest_are_kept(tmp_path):
    model, optimizer = build()
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.steps() == []
    for done in (5, 10, 200):
        checkpoints.save(done, model, optimizer)
    assert checkpoints.steps() == [10, 200]
    (tmp_path / "c" / ".step-00000300.partial").mkdir()
    (tmp_path / "c" / "notes.txt").touch()
    assert checkpoints.steps() == [10, 200]
    assert checkpoints.load_newest(model, optimizer) == 200


@pytest.mark.parametrize(
    ("where", "failing"), [(saving, "save_file"), (module, "write_text")], ids=["tensors", "state"]
)
def test_a_failure_while_saving_leaves_the_one_before(tmp_path, monkeypatch, where, failing):
    model, optimizer = build()
    step(model, optimizer)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, model, optimizer)
    good = {name: value.clone() for name, value in model.state_dict().items()}
    step(model, optimizer)

    def fail(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(where, failing, fail)
        with pytest.raises(VqtrtError, match="No space left"):
            checkpoints.save(2, model, optimizer)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    other, other_optimizer = build(seed=1)
    assert checkpoints.load_newest(other, other_optimizer) == 1
    assert all(torch.equal(other.state_dict()[name], good[name]) for name in good)
    checkpoints.save(2, model, optimizer)
    assert checkpoints.steps() == [2]


def test_a_failure_while_weights_are_written_leaves_the_old_ones(tmp_path, monkeypatch):
    model, optimizer = build()
    path = tmp_path / "model.safetensors"
    save_weights(model, path)
    before = path.read_bytes()
    step(model, optimizer)

    def torn(tensors, target):
        target.write_bytes(b"half")
        raise OSError("gone")

    monkeypatch.setattr(saving, "save_file", torn)
    with pytest.raises(OSError, match="gone"):
        save_weights(model, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("I/O error: No space left on device (os error 28)", "^No space left on .*: make room"),
        ("I/O error: File too large (os error 27)", r"cannot be written \(File too large\); mend"),
        ("no such dtype", r"cannot be written \(.*no such dtype.*\); mend that"),
    ],
)
def test_what_safetensors_makes_of_a_failure_is_said_once(tmp_path, monkeypatch, words, message):
    def fail(*args):
        raise SafetensorError(f"Error while serializing: {words}")

    monkeypatch.setattr(saving, "save_file", fail)
    with pytest.raises(VqtrtError, match=message) as caught:
        Checkpoints(tmp_path, keep=1).save(1, *build())
    assert str(caught.value).count("cannot be written") <= 1
    assert "os error" not in str(caught.value)


def test_a_file_that_may_not_grow_is_said_once(tmp_path):
    """What `ulimit -f` does, through the real safetensors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(VqtrtError) as caught:
            Checkpoints(tmp_path, keep=1).save(1, *build())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    path = tmp_path / "step-00000001"
    assert str(caught.value) == (
        f"{path}: cannot be written (File too large); mend that or change --out"
    )


def test_nothing_to_resume_from(tmp_path):
    with pytest.raises(VqtrtError, match="no checkpoint to resume from; train again"):
        Checkpoints(tmp_path / "checkpoints", 1).load_newest(*build())


def test_a_newer_format_says_so(tmp_path):
    checkpoints = Checkpoints(tmp_path, 1)
    path = checkpoints.save(1, *build()) / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2}))
    with pytest.raises(VqtrtError, match="newer vqtrt"):
        checkpoints.load_newest(*build())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 1}', '{"format_version": 1}', "\xff"])
def test_a_damaged_state_is_one_line(tmp_path, text):
    checkpoints = Checkpoints(tmp_path, 1)
    (checkpoints.save(1, *build()) / "state.json").write_text(text, encoding="latin-1")
    with pytest.raises(VqtrtError, match=r"step-00000001.*damaged") as error:
        checkpoints.load_newest(*build())
    assert "\n" not in str(error.value)
