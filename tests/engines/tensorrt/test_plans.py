"""Engine files: written once, found by key, kept where their graph stayed the same."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from plan_files import HERE, PLAN, graph, make_bundle, plan_info, refused, write
from pydantic import ValidationError

from vqtrt.engines.tensorrt import plans
from vqtrt.engines.tensorrt.plan_info import PlanInfo, info_text, plan_sha256, varying_sizes
from vqtrt.engines.tensorrt.plans import (
    carry_plans,
    find_plan,
    read_plan,
    runtime_cache,
    whole_plan,
)
from vqtrt.engines.tensorrt.runtime_cache import read_cache, write_cache
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path)


def test_what_was_written_is_found_and_read(bundle):
    path = write(bundle)
    found, info = find_plan(bundle, "encoder", "fp32", **HERE)
    assert (found, info) == (path, plan_info(bundle))
    assert read_plan(bundle, found, **HERE) == PLAN
    names = [path.name.removeprefix(info.key) for path in sorted(path.parent.iterdir())]
    assert names == [".engine", ".json", ".layers.json", ".log"]
    assert path.with_suffix(".log").read_text() == "built\n"
    assert runtime_cache(path).name == f"{info.key}.runtime-cache"
    assert whole_plan(bundle, info) == info


def test_none_is_built(bundle):
    assert "has no tensorrt-rtx engine of 'encoder' in fp32" in refused(bundle)
    with pytest.raises(VqtrtError, match="no graph 'bf16/encoder'"):
        find_plan(bundle, "encoder", "bf16", **HERE)


def test_damage_beside_a_good_engine_is_no_obstacle(bundle):
    good, bad = write(bundle), write(bundle, compute_capabilities=("8.9",))
    bad.with_suffix(".json").write_text("{}")
    assert find_plan(bundle, "encoder", "fp32", **HERE)[0] == good


def test_sizes_choose_among_profiles(bundle):
    def profile(*batches, side=16):
        return {"images": tuple((n, side, side, 3) for n in batches)}

    small = write(bundle, profile=profile(1, 1, 1))
    wide = write(bundle, profile=profile(1, 16, 64))
    large = write(bundle, profile=profile(1, 8, 8, side=32))

    def chosen(**fits):
        return find_plan(bundle, "encoder", "fp32", **HERE, fits=fits)[0]

    assert chosen(batch=1, h=4, w=4) == small
    assert chosen(batch=2, h=4, w=4) == wide
    assert chosen(batch=2, h=8, w=8) == large
    assert chosen(h=4, w=4) == wide
    assert find_plan(bundle, "encoder", "fp32", **HERE)[0] == wide
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
    assert find_plan(bundle, "encoder", "fp32", **HERE)[0] == good
    assert find_plan(bundle, "encoder", "fp32", **HERE, trusted=True)[0] == other


def test_engines_stay_trusted_where_an_export_carries_them(bundle: Bundle, tmp_path: Path) -> None:
    path = write(bundle)
    new = tmp_path / "new"
    new.mkdir()
    Bundle.write_info(new, bundle.info)
    assert carry_plans(bundle.path, new, {"encoder": graph("a")}) == 1
    shutil.rmtree(bundle.path)
    carried = Bundle.open(new)
    assert read_plan(carried, carried.path / "engines" / path.name, **HERE) == PLAN


def test_sizes_that_a_profile_leaves_free(bundle: Bundle) -> None:
    spec = graph("a")
    assert varying_sizes(plan_info(bundle), spec) == {"batch"}
    fixed = plan_info(bundle, profile={"images": ((2, 16, 16, 3),) * 3})
    assert varying_sizes(fixed, spec) == set()
    shapes = ((1, 16, 16, 3), (1, 16, 16, 3), (1, 32, 16, 3))
    assert varying_sizes(plan_info(bundle, profile={"images": shapes}), spec) == {"h"}
