"""Engine files: a plan's bytes are handed out only where all is as it was written.

`load` stands for an engine that deserialises: what it was given is kept, and must stay nothing.
"""

import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.engines.tensorrt import plans
from vqtrt.engines.tensorrt.plan_info import PlanInfo, info_text, plan_sha256, varying_sizes
from vqtrt.engines.tensorrt.plans import (
    carry_plans,
    find_plan,
    read_plan,
    runtime_cache,
    whole_plan,
    write_plan,
)
from vqtrt.engines.tensorrt.runtime_cache import read_cache, write_cache
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle, BundleInfo, GraphSpec, ModelInfo, Source, TensorSpec

PLAN = random.Random(0).randbytes(4096)  # noqa: S311
HERE: dict[str, Any] = {"package": "tensorrt-rtx", "version": "1.7.1.116", "capability": "8.9"}
GPU: dict[str, Any] = {
    "package": "tensorrt",
    "version": "11.4.0.1",
    "gpu": "NVIDIA L4",
    "capability": "8.9",
}


def graph(sha: str) -> GraphSpec:
    images = TensorSpec(name="images", dtype="uint8", shape=("batch", "4*h", "4*w", 3))
    codes = TensorSpec(name="codes", dtype="int32", shape=("batch", "h", "w"))
    return GraphSpec(file="encoder.onnx", sha256=sha * 64, inputs=(images,), outputs=(codes,))


@pytest.fixture
def bundle(tmp_path):
    info = BundleInfo(
        vqtrt_version="0",
        model=ModelInfo(codebook_size=16, num_codebooks=1, code_dim=8, stride=4),
        preprocessing=Preprocessing(height=16, width=16),
        graphs={"encoder": graph("a"), "fp16/encoder": graph("b")},
        opset=20,
        source=Source(run="runs/tiny", weights_sha256="c" * 64, recipe="tiny"),
    )
    path = tmp_path / "bundle"
    path.mkdir()
    Bundle.write_info(path, info)
    return Bundle.open(path)


def plan_info(bundle, **changes) -> PlanInfo:
    """That of an engine for RTX, of `encoder`, for batches of 1 to 8 at 16x16."""
    shapes = tuple((n, 16, 16, 3) for n in (1, 4, 8))
    made = {
        "graph": "encoder",
        "graph_sha256": "a" * 64,
        "package": HERE["package"],
        "package_version": HERE["version"],
        "precision": "fp32",
        "profile": {"images": shapes},
        "gpu": None,
        "compute_capabilities": (),
        "capturable": False,
        "plan_sha256": plan_sha256(PLAN),
        "plan_bytes": len(PLAN),
        "activation_bytes": 4096,
        "vqtrt_version": "0",
    }
    return PlanInfo.model_validate(made | changes)


def write(bundle, **changes):
    return write_plan(bundle.path / "engines", plan_info(bundle, **changes), PLAN, [], ["built"])


def for_gpu(bundle):
    """The same of `tensorrt`, built on an L4."""
    names = {"package": GPU["package"], "package_version": GPU["version"], "gpu": GPU["gpu"]}
    return write(bundle, compute_capabilities=("8.9",), **names)


def load(bundle, deserialised, graph="encoder", precision="fp32", **here):
    path, _ = find_plan(bundle, graph, precision=precision, **here)
    deserialised.append(read_plan(bundle, path, **here))


def refused(bundle, path=None, **here):
    """The message of the refusal, by both ways in: by search, and of a path found before."""
    deserialised, here = [], HERE | here
    with pytest.raises(VqtrtError) as error:
        load(bundle, deserialised, **here)
    if path is not None:
        with pytest.raises(VqtrtError) as error:
            deserialised.append(read_plan(bundle, path, **here))
    assert deserialised == []
    message = str(error.value)
    assert "\n" not in message
    assert re.search(rf"`vqtrt export {bundle.path} --target {here['package']}", message)
    return message


def test_what_was_written_is_found_and_read(bundle):
    path = write(bundle)
    found, info = find_plan(bundle, "encoder", precision="fp32", **HERE)
    assert (found, info) == (path, plan_info(bundle))
    assert read_plan(bundle, found, **HERE) == PLAN
    names = [path.name.removeprefix(info.key) for path in sorted(path.parent.iterdir())]
    assert names == [".engine", ".json", ".layers.json", ".log"]
    assert path.with_suffix(".log").read_text() == "built\n"
    assert runtime_cache(path).name == f"{info.key}.runtime-cache"
    assert whole_plan(bundle, info) == info


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


def test_none_is_built(bundle):
    assert "has no tensorrt-rtx engine of 'encoder' in fp32" in refused(bundle)
    with pytest.raises(VqtrtError, match="no graph 'bf16/encoder'"):
        find_plan(bundle, "encoder", precision="bf16", **HERE)


def test_damage_beside_a_good_engine_is_no_obstacle(bundle):
    good, bad = write(bundle), write(bundle, compute_capabilities=("8.9",))
    bad.with_suffix(".json").write_text("{}")
    assert find_plan(bundle, "encoder", precision="fp32", **HERE)[0] == good


def test_sizes_choose_among_profiles(bundle):
    def profile(*batches, side=16):
        return {"images": tuple((n, side, side, 3) for n in batches)}

    small = write(bundle, profile=profile(1, 1, 1))
    wide = write(bundle, profile=profile(1, 16, 64))
    large = write(bundle, profile=profile(1, 8, 8, side=32))

    def chosen(**fits):
        return find_plan(bundle, "encoder", precision="fp32", **HERE, fits=fits)[0]

    assert chosen(batch=1, h=4, w=4) == small
    assert chosen(batch=2, h=4, w=4) == wide
    assert chosen(batch=2, h=8, w=8) == large
    assert chosen(h=4, w=4) == wide
    assert find_plan(bundle, "encoder", precision="fp32", **HERE)[0] == wide
    with pytest.raises(VqtrtError, match=r"does not span batch 65, h 4, w 4 .*--batch and --size"):
        chosen(batch=65, h=4, w=4)


def test_the_key_is_of_the_work_and_not_of_its_result(bundle):
    info = plan_info(bundle)
    made = {
        "plan_sha256": "0" * 64,
        "plan_bytes": 1,
        "activation_bytes": None,
        "vqtrt_version": "1",
    }
    assert info.model_copy(update=made).key == info.key
    others: list[dict[str, Any]] = [
        {"graph_sha256": "b" * 64},
        {"package_version": "1.7.2"},
        {"precision": "fp16"},
        {"profile": {"images": ((1, 16, 16, 3),) * 3}},
        {"compute_capabilities": ("8.9",)},
        {"capturable": True},
        {"gpu": "NVIDIA L4"},
    ]
    keys = {info.key} | {plan_info(bundle, **change).key for change in others}
    assert len(keys) == 1 + len(others)
    outside = plan_info(bundle, graph="../../priors/é\0/step" * 20).key
    assert re.fullmatch(r"[A-Za-z0-9-]{1,90}", outside)


def test_a_write_that_fails_leaves_no_engine(bundle, monkeypatch):
    path = write(bundle)
    replace = plans.replace_file

    def full(file, content):
        if file.suffix == ".engine":
            raise OSError(28, "No space left on device")
        replace(file, content)

    monkeypatch.setattr(plans, "replace_file", full)
    with pytest.raises(VqtrtError, match="No space left"):
        write(bundle)
    refused(bundle, path)
    assert not list(path.parent.glob(".*"))


def test_an_export_carries_over_the_engines_of_graphs_that_did_not_change(bundle, tmp_path):
    kept = write(bundle)
    write_cache(runtime_cache(kept), b"kernels")
    write_cache(kept.parent / "11-L4.timing-cache", b"timings")
    write(bundle, precision="fp16", graph_sha256="b" * 64)
    damaged = write(bundle, compute_capabilities=("8.9",))
    damaged.with_suffix(".json").write_text("{}")
    new = tmp_path / "new"
    new.mkdir()
    assert carry_plans(bundle.path, new, {"encoder": graph("a")}) == 1
    names = {".engine", ".json", ".layers.json", ".log", ".runtime-cache", ".runtime-cache.sha256"}
    assert {path.name for path in (new / "engines").iterdir()} == {
        "11-L4.timing-cache",
        "11-L4.timing-cache.sha256",
        *(f"{kept.stem}{suffix}" for suffix in names),
    }
    assert read_cache(new / "engines" / runtime_cache(kept).name) == b"kernels"
    assert read_cache(new / "engines" / "11-L4.timing-cache") == b"timings"
    assert carry_plans(new / "nothing", tmp_path, {"encoder": graph("a")}) == 0


def test_a_json_holds_its_fields_and_a_hash(bundle):
    path = write(bundle)
    content = json.loads(path.with_suffix(".json").read_text())
    assert set(content) == {*PlanInfo.model_fields, "self_sha256"}


@pytest.mark.parametrize(
    "changes",
    [
        *({"plan_bytes": value} for value in (0, -1, 2**34, 1e10)),
        *({"profile": {"images": ((n,), (n,), (n,))}} for n in (0, -1, 2**31, 1e10)),
        {"profile": {"images": ((1,) * 9,) * 3}},
        {"profile": {"images": ((1, 2), (1,), (1, 2))}},
        {"profile": {"images": ((4,), (2,), (8,))}},
        {"compute_capabilities": ("8.9",) * 65},
        {"gpu": "x" * 5000},
    ],
)
def test_what_an_info_claims_has_bounds(bundle: Bundle, changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        plan_info(bundle, **changes)


def test_a_plan_of_somebody_else_is_not_handed_out(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All its hashes are right: whoever wrote it wrote these as well."""
    path = write(bundle)
    monkeypatch.setenv("VQTRT_STATE", str(tmp_path / "another-user"))
    message = refused(bundle, path)
    assert message.startswith(f"{path} was not built by this user on this machine, and an engine")
    assert "--trust-engines" in message
    assert find_plan(bundle, "encoder", precision="fp32", **HERE, trusted=True)[0] == path
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


def test_a_stranger_beside_a_good_engine_is_no_obstacle(bundle: Bundle) -> None:
    good = write(bundle)
    other = write(bundle, profile={"images": tuple((n, 16, 16, 3) for n in (1, 1, 99))})
    theirs = plan_info(
        bundle,
        profile={"images": tuple((n, 16, 16, 3) for n in (1, 1, 99))},
        plan_sha256=plan_sha256(b"evil"),
        plan_bytes=4,
    )
    other.write_bytes(b"evil")
    other.with_suffix(".json").write_bytes(info_text(theirs))
    assert find_plan(bundle, "encoder", precision="fp32", **HERE)[0] == good
    assert find_plan(bundle, "encoder", precision="fp32", **HERE, trusted=True)[0] == other


def test_engines_stay_trusted_where_an_export_carries_them(bundle: Bundle, tmp_path: Path) -> None:
    path = write(bundle)
    new = tmp_path / "new"
    new.mkdir()
    Bundle.write_info(new, bundle.info)
    assert carry_plans(bundle.path, new, {"encoder": graph("a")}) == 1
    shutil.rmtree(bundle.path)
    carried = Bundle.open(new)
    assert read_plan(carried, carried.path / "engines" / path.name, **HERE) == PLAN


def test_an_engine_of_another_format_says_so(bundle: Bundle) -> None:
    path = write(bundle)
    file = path.with_suffix(".json")
    file.write_text(file.read_text().replace('"format_version": 2', '"format_version": 1'))
    assert "has format version 1, and this vqtrt reads 2" in refused(bundle, path)


def test_sizes_that_a_profile_leaves_free(bundle: Bundle) -> None:
    spec = graph("a")
    assert varying_sizes(plan_info(bundle), spec) == {"batch"}
    fixed = plan_info(bundle, profile={"images": ((2, 16, 16, 3),) * 3})
    assert varying_sizes(fixed, spec) == set()
    shapes = ((1, 16, 16, 3), (1, 16, 16, 3), (1, 32, 16, 3))
    assert varying_sizes(plan_info(bundle, profile={"images": shapes}), spec) == {"h"}
