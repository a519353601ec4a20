"""The engine files of a bundle: which one is for what, and the checks before it is used.

A plan is code: the package that gets it runs it. So a plan's bytes are handed out only after they
were found to be those that were written, for this graph, this version of the package and this GPU.
These hashes find damage and mistakes. They do not find an attacker, who can write new ones:
`trust` does, which knows what this user built. What others built needs the user's word.

`BUNDLE/engines/` holds for each KEY: `KEY.engine` (the plan), `KEY.json` (a `PlanInfo`),
`KEY.layers.json` and `KEY.log` (what was built, for people), and `KEY.runtime-cache` with its
SHA-256 beside it, which TensorRT for RTX keeps between runs.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Required, TypedDict, Unpack

from vqtrt.engines.tensorrt.plan_info import (
    INFO,
    PLAN,
    PlanInfo,
    damaged,
    info_text,
    plan_sha256,
    read_bounded,
    read_info,
    spans,
)
from vqtrt.engines.tensorrt.runtime_cache import digest_file
from vqtrt.engines.tensorrt.trust import is_known, remember
from vqtrt.errors import VqtrtError, unwritable
from vqtrt.formats.bundle import Bundle, GraphSpec, axis_size
from vqtrt.formats.precision import graph_key
from vqtrt.system.atomic import write_bytes

FOLDER = "engines"
LAYERS, LOG = ".layers.json", ".log"
RUNTIME_CACHE, TIMING_CACHE = ".runtime-cache", ".timing-cache"


def graph_name(graph: str, precision: str) -> str:
    """A graph's name in the bundle's table: `encoder`, and `fp16/encoder`."""
    return graph_key(precision, graph)


def rebuild(bundle: Bundle, package: str, precision: str) -> str:
    """The command that builds a bundle's engines."""
    return f"`vqtrt export {bundle.path} --target {package} --precision {precision}`"


def write_plan(folder: Path, info: PlanInfo, plan: bytes, layers: Any, log: Iterable[str]) -> Path:
    """Write an engine that was built here into `folder`; returns the plan's path.

    `layers` becomes JSON. Each file is written under another name and renamed, KEY.json last: what
    it speaks of is there. This user trusts the plan from now on, if `trust` can write that down.
    """
    contents = {
        LAYERS: (json.dumps(layers, indent=1) + "\n").encode(),
        LOG: "".join(f"{line}\n" for line in log).encode(),
        PLAN: plan,
        INFO: info_text(info),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{info.key}{INFO}").unlink(missing_ok=True)
        for suffix, content in contents.items():
            replace_file(folder / f"{info.key}{suffix}", content)
    except OSError as error:
        raise unwritable(folder, error) from error
    path = folder / f"{info.key}{PLAN}"
    remember(info.plan_sha256, path)
    return path


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under another name, then rename it: readers see the old one or the new one."""
    write_bytes(path, content)


def has_plans(bundle: Bundle, package: str, precision: str) -> bool:
    """Whether a bundle says that it has engines of this package and precision."""
    wanted = (package, precision)
    infos = (info for _, info in read_infos(bundle, "") if not isinstance(info, str))
    return any((info.package, info.precision) == wanted for info in infos)


Infos = Sequence[tuple[Path, "PlanInfo | str"]]
"""The plans of a bundle, each with its info, or with why that cannot be read."""


def read_infos(bundle: Bundle, build: str) -> Infos:
    """Read each `KEY.json` of a bundle; `build` is the command that errors name."""
    found: list[tuple[Path, PlanInfo | str]] = []
    for path in sorted((bundle.path / FOLDER).glob(f"*{INFO}")):
        if not path.name.endswith(LAYERS):
            try:
                found.append((path.with_suffix(PLAN), read_info(path, build)))
            except VqtrtError as error:
                found.append((path.with_suffix(PLAN), str(error)))
    return found


class Here(TypedDict, total=False):
    """What is to run a plan."""

    package: Required[str]
    version: Required[str]
    gpu: str | None
    """Its name."""
    capability: str | None
    """Its compute capability, such as `8.9`."""
    trusted: bool
    """Take also plans that this user did not build."""


def find_plan(
    bundle: Bundle,
    graph: str,
    precision: str,
    *,
    fits: Mapping[str, int] | None = None,
    infos: Infos | None = None,
    **here: Unpack[Here],
) -> tuple[Path, PlanInfo]:
    """The engine of a graph for this package, its version and this GPU; reads no plan.

    `fits` gives a number to free sizes (`batch`, `h`, `w`, …), which the engine's profile has to
    span; those left out are free. Of several, the one with the narrowest profile is taken where
    `fits` has all sizes, else the widest. `trusted` takes also what this user did not build.
    `infos` are those of `read_infos`, if they were read before.
    """
    package, build = here["package"], rebuild(bundle, here["package"], precision)
    spec = bundle.graph_spec(graph_name(graph, precision))
    found: list[tuple[Path, PlanInfo]] = []
    refused = []
    for path, info in read_infos(bundle, build) if infos is None else infos:
        if isinstance(info, str):
            refused.append(info)
            continue
        if (info.graph, info.package, info.precision) != (graph, package, precision):
            continue
        reason = _unfit(spec, info, here)
        if reason is None and not spans(info, spec, fits or {}):
            wanted = ", ".join(f"{name} {size}" for name, size in (fits or {}).items())
            reason = f"its profile does not span {wanted} (see --batch and --size)"
        if reason is not None:
            refused.append(f"{path} cannot be used: {reason}; build it: {build}")
        elif not (here.get("trusted") or is_known(info.plan_sha256)):
            refused.append(_foreign(path, build))
        else:
            found.append((path, info))
    if not found:
        missing = f"{bundle.path} has no {package} engine of {graph!r} in {precision}: {build}"
        raise VqtrtError(refused[0] if refused else missing)
    free = {size for tensor in spec.inputs for size in tensor.shape if isinstance(size, str)}
    whole = all(axis_size(size, fits or {}) is not None for size in free)
    return (min if whole else max)(found, key=lambda each: _volume(each[1]))


def read_plan(bundle: Bundle, path: Path, **here: Unpack[Here]) -> bytes:
    """The checked bytes of a plan that `find_plan` gave, ready to be deserialised.

    Everything is checked anew, `KEY.json` included: the bytes that are returned are those that
    were hashed, and nothing is taken over from an earlier look. Unless `trusted`, they have to be
    bytes that this user built.
    """
    package = here["package"]
    build = f"`vqtrt export {bundle.path} --target {package}`"
    inside = (bundle.path / FOLDER).resolve()
    if path.parent.resolve() != inside or path.resolve().parent != inside or path.suffix != PLAN:
        raise VqtrtError(f"{path} is no engine of {bundle.path}; build one: {build}")
    info = read_info(path.with_suffix(INFO), build)
    build = rebuild(bundle, package, info.precision)
    spec = bundle.graph_spec(graph_name(info.graph, info.precision))
    reason = _unfit(spec, info, here)
    if info.package != package:
        reason = f"it is for {info.package}"
    if reason is not None:
        raise VqtrtError(f"{path} cannot be used: {reason}; build it: {build}")
    plan = read_bounded(path, info.plan_bytes, build)
    if len(plan) != info.plan_bytes or plan_sha256(plan) != info.plan_sha256:
        raise VqtrtError(damaged(path, "size or SHA-256 is not that of its .json", build))
    if not (here.get("trusted") or is_known(info.plan_sha256)):
        raise VqtrtError(_foreign(path, build))
    return plan


def whole_plan(bundle: Bundle, info: PlanInfo) -> PlanInfo | None:
    """The engine that is there already under the key of `info`, if it is whole and was built here.

    One that somebody else built is built anew: it would not be loaded.
    """
    path = bundle.path / FOLDER / f"{info.key}{PLAN}"
    try:
        read_plan(
            bundle,
            path,
            package=info.package,
            version=info.package_version,
            gpu=info.gpu,
            capability=next(iter(info.compute_capabilities), None),
        )
        return read_info(path.with_suffix(INFO), "")
    except VqtrtError:
        return None


def carry_plans(old: Path, new: Path, graphs: Mapping[str, GraphSpec]) -> int:
    """Copy the engines of bundle folder `old` whose graphs are also in `graphs` into `new`.

    Returns how many engines. For an export, which replaces a bundle as a whole. Who built an
    engine is known by its bytes, which stay the same.
    """
    hashes = {spec.sha256 for spec in graphs.values()}
    files, count = list((old / FOLDER).glob(f"*{TIMING_CACHE}")), 0
    for path in sorted((old / FOLDER).glob(f"*{INFO}")):
        if path.name.endswith(LAYERS):
            continue
        try:
            info = read_info(path, "")
        except VqtrtError:
            continue
        if info.graph_sha256 in hashes:
            files += [path.with_suffix(each) for each in (PLAN, LAYERS, LOG, RUNTIME_CACHE, INFO)]
            count += 1
    files += [digest_file(file) for file in files if file.suffix in (TIMING_CACHE, RUNTIME_CACHE)]
    for file in files:
        (new / FOLDER).mkdir(exist_ok=True)
        if file.is_file():
            shutil.copy2(file, new / FOLDER)
    return count


def runtime_cache(plan: Path) -> Path:
    """Where TensorRT for RTX keeps the kernels of a plan."""
    return plan.with_suffix(RUNTIME_CACHE)


def _unfit(spec: GraphSpec, info: PlanInfo, here: Here) -> str | None:
    """Why a plan cannot run here; None if it can."""
    version, gpu, capability = here["version"], here.get("gpu"), here.get("capability")
    if info.graph_sha256 != spec.sha256:
        return "it was built from another graph than the bundle holds now"
    if info.package_version != version:
        return f"{info.package} {info.package_version} built it, and {version} is here"
    if info.package == "tensorrt" and info.gpu != gpu:
        return f"it was built for {info.gpu}, and {gpu or 'no GPU'} is here"
    if capability is None:
        return None
    built = info.compute_capabilities
    if built and capability not in built:
        return f"it was built for compute capability {', '.join(built)}, and {capability} is here"
    if info.package == "tensorrt-rtx" and not built and capability.startswith("7."):
        return f"portable engines need compute capability 8.0, and {capability} is here"
    return None


def _volume(info: PlanInfo) -> int:
    return sum(prod(largest) for _, _, largest in info.profile.values())


def _foreign(path: Path, build: str) -> str:
    return (
        f"{path} was not built by this user on this machine, and an engine is code that would run: "
        f"build it: {build}, or, if you trust whoever built it, pass --trust-engines"
    )
