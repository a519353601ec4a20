"""A plan's bytes are handed out only where all is as it was written."""

import os
import random
from pathlib import Path

import pytest
from plan_files import GPU, HERE, PLAN, for_gpu, make_bundle, plan_info, refused, write

from vqtrt.engines.tensorrt.plan_info import info_text, plan_sha256
from vqtrt.engines.tensorrt.plans import find_plan, read_plan, whole_plan
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path)


def test_a_plan_of_tensorrt_is_for_its_gpu(bundle):
    path = for_gpu(bundle)
    assert read_plan(bundle, path, **GPU) == PLAN
    assert "NVIDIA L4" in refused(bundle, path, **GPU | {"gpu": "NVIDIA H200"})
    assert "no GPU is here" in refused(bundle, path, **GPU | {"gpu": None})
    assert "--precision fp32" in refused(bundle, path, **GPU | {"gpu": "NVIDIA H200"})


def test_every_flipped_byte_is_found(bundle):
    path = write(bundle)
    files = [path, path.with_suffix(".json")]
    rng = random.Random(1)  # noqa: S311
    for turn in range(100):
        file = files[turn % 2]
        content = file.read_bytes()
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= rng.randrange(1, 256)
        file.write_bytes(damaged)
        refused(bundle, path)
        assert whole_plan(bundle, plan_info(bundle)) is None
        file.write_bytes(content)
    assert read_plan(bundle, path, **HERE) == PLAN


def test_every_truncation_is_found(bundle):
    path = write(bundle)
    rng = random.Random(2)  # noqa: S311
    for turn in range(10):
        file = path if turn % 2 else path.with_suffix(".json")
        content = file.read_bytes()
        file.write_bytes(content[: 0 if turn < 2 else rng.randrange(len(content))])
        refused(bundle, path)
        file.write_bytes(content)
    path.write_bytes(PLAN + b"\0")
    assert "larger than its 4096 bytes" in refused(bundle, path)
    path.unlink()
    assert "is missing" in refused(bundle, path)


def test_a_json_that_means_the_same_is_damage_too(bundle):
    path = write(bundle)
    file = path.with_suffix(".json")
    text = file.read_text()
    for other in (text.replace(",\n", ", "), text + "\n", text.replace('"gpu"', '"gpu":1,"gpu"')):
        assert other != text
        file.write_text(other)
        assert "is damaged" in refused(bundle, path)


@pytest.mark.parametrize("content", [b"[]", b"{}", b"null", b"[" * 99999, b'{"self_sha256":1}'])
def test_a_json_of_something_else(bundle, content):
    path = write(bundle)
    path.with_suffix(".json").write_bytes(content)
    assert "is damaged" in refused(bundle, path)


def test_a_json_is_read_up_to_a_bound(bundle):
    path = write(bundle)
    with path.with_suffix(".json").open("ab") as file:
        file.truncate(2**21)
    assert "larger than its 1048576 bytes" in refused(bundle, path)


def test_a_plan_or_json_that_never_ends_is_not_read(bundle):
    path = write(bundle)
    for file in (path, path.with_suffix(".json")):
        content = file.read_bytes()
        file.unlink()
        os.mkfifo(file)
        assert "it is a pipe, not a regular file" in refused(bundle, path)
        file.unlink()
        file.write_bytes(content)
    assert read_plan(bundle, path, **HERE) == PLAN


@pytest.mark.parametrize(
    ("here", "message"),
    [
        ({"version": "1.7.0.1"}, "tensorrt-rtx 1.7.1.116 built it, and 1.7.0.1 is here"),
        ({"capability": "7.5"}, "portable engines need compute capability 8.0, and 7.5 is here"),
        ({"package": "tensorrt"}, "tensorrt"),
    ],
)
def test_another_version_capability_or_package(bundle, here, message):
    path = write(bundle)
    assert message in refused(bundle, path, **here)


def test_compute_capabilities_that_were_asked_for(bundle):
    path = write(bundle, compute_capabilities=("8.9", "12.0"))
    assert read_plan(bundle, path, **HERE) == PLAN
    assert "8.9, 12.0, and 9.0 is here" in refused(bundle, path, capability="9.0")


def test_a_plan_of_another_graph(bundle):
    path = write(bundle, graph_sha256="d" * 64)
    assert "another graph" in refused(bundle, path)
    other = write(bundle, graph="decoder")
    with pytest.raises(VqtrtError, match="no graph 'decoder'"):
        read_plan(bundle, other, **HERE)


def test_files_that_were_renamed_to_another_key(bundle):
    path = write(bundle)
    other = write(bundle, precision="fp16", graph_sha256="b" * 64)
    for suffix in (".engine", ".json"):
        other.with_suffix(suffix).replace(path.with_suffix(suffix))
    assert "it is that of encoder-fp16-" in refused(bundle, path)


def test_a_plan_from_elsewhere(bundle, tmp_path):
    path = write(bundle)
    outside = tmp_path / "other"
    path.parent.rename(outside)
    refused(bundle, outside / path.name)
    path.parent.mkdir()
    path.with_suffix(".json").write_bytes((outside / path.name).with_suffix(".json").read_bytes())
    path.symlink_to(outside / path.name)
    assert "is no engine of" in refused(bundle, path)


def test_a_plan_of_somebody_else_is_not_handed_out(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All its hashes are right: whoever wrote it wrote these as well."""
    path = write(bundle)
    monkeypatch.setenv("VQTRT_STATE", str(tmp_path / "another-user"))
    message = refused(bundle, path)
    assert message.startswith(f"{path} was not built by this user on this machine, and an engine")
    assert "--trust-engines" in message
    assert find_plan(bundle, "encoder", "fp32", **HERE, trusted=True)[0] == path
    assert read_plan(bundle, path, **HERE, trusted=True) == PLAN
    # To build again, as the message says, does not take theirs for built.
    assert whole_plan(bundle, plan_info(bundle)) is None
    assert write(bundle) == path
    assert read_plan(bundle, path, **HERE) == PLAN


def test_only_the_bytes_that_were_built_here_are_trusted(bundle: Bundle, tmp_path: Path) -> None:
    """No name and no field of a file says who built it: a stranger can write both."""
    path = write(bundle)
    theirs = b"evil" + PLAN[4:]
    info = plan_info(bundle, plan_sha256=plan_sha256(theirs))
    assert info.key == path.stem
    path.write_bytes(theirs)
    path.with_suffix(".json").write_bytes(info_text(info))
    assert "was not built by this user" in refused(bundle, path)


def test_an_engine_of_another_format_says_so(bundle: Bundle) -> None:
    path = write(bundle)
    file = path.with_suffix(".json")
    file.write_text(file.read_text().replace('"format_version": 2', '"format_version": 1'))
    assert "has format version 1, and this vqtrt reads 2" in refused(bundle, path)
