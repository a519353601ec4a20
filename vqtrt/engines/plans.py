"""The engine files of a bundle: what each is for, and the checks before one is used.

A plan is code: the package that gets it runs it. So a plan's bytes are handed out only after they
were found to be those that were written, for this graph, this version of the package and this GPU.
The hashes find damage and mistakes. They do not find an attacker, who can write new ones: load
only engines that you built.

`BUNDLE/engines/` holds for each KEY: `KEY.engine` (the plan), `KEY.json` (a `PlanInfo`),
`KEY.layers.json` and `KEY.log` (what was built, for people), and `KEY.runtime-cache`, which
TensorRT for RTX keeps between runs.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vqtrt.bundle import Bundle, GraphSpec, axis_size
from vqtrt.errors import VqtrtError, unwritable
from vqtrt.precision import graph_key

FOLDER = "engines"
PLAN, INFO, LAYERS, LOG = ".engine", ".json", ".layers.json", ".log"
RUNTIME_CACHE, TIMING_CACHE = ".runtime-cache", ".timing-cache"
_MAX_INFO_BYTES = 2**20
_MAX_PLAN_BYTES = 2**33

Shape = Annotated[tuple[Annotated[int, Field(ge=1, lt=2**31)], ...], Field(max_length=8)]
Name = Annotated[str, Field(max_length=4096)]
Profile = dict[str, tuple[Shape, Shape, Shape]]
"""For each input its least shape, the one to be fastest at, and its largest."""


class PlanInfo(BaseModel):
    """What a plan is for: the content of `KEY.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    graph: Name
    """Name in the bundle's table, less the precision: `encoder`, `priors/NAME/step`."""
    graph_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    package: Literal["tensorrt", "tensorrt-rtx"]
    package_version: Name
    precision: Literal["fp32", "fp16", "bf16"]
    profile: Profile = Field(max_length=4096)
    gpu: Name | None
    """Name of the GPU that it was built on; None for RTX, whose plans are not for one GPU."""
    compute_capabilities: Annotated[tuple[Name, ...], Field(max_length=64)]
    """Those that it was compiled for, such as `8.9`; none for RTX's portable plans."""
    plan_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    plan_bytes: int = Field(ge=1, le=_MAX_PLAN_BYTES)
    vqtrt_version: Name

    @field_validator("profile")
    @classmethod
    def _ascending(cls, profile: Profile) -> Profile:
        for name, (least, usual, largest) in profile.items():
            sizes = list(zip(least, usual, largest, strict=False))
            same = len(least) == len(usual) == len(largest)
            if not same or any(not low <= middle <= high for low, middle, high in sizes):
                raise ValueError(f"{name}: {least}, {usual}, {largest} do not ascend")
        return profile

    @property
    def key(self) -> str:
        """Name of its files: the same for the same work, whatever bytes came of it."""
        made = {"plan_sha256", "plan_bytes", "vqtrt_version"}
        readable = re.sub(r"[^A-Za-z0-9]+", "-", self.graph)[:60]
        return f"{readable}-{self.precision}-{_digest(self.model_dump(mode='json', exclude=made))}"


def graph_name(graph: str, precision: str) -> str:
    """A graph's name in the bundle's table: `encoder`, and `fp16/encoder`."""
    return graph_key(precision, graph)


def rebuild(bundle: Bundle, package: str, precision: str) -> str:
    """The command that builds a bundle's engines."""
    return f"`vqtrt export {bundle.path} --target {package} --precision {precision}`"


def plan_sha256(plan: bytes) -> str:
    """SHA-256 of a plan, as a `PlanInfo` holds it."""
    return hashlib.sha256(plan).hexdigest()


def write_plan(folder: Path, info: PlanInfo, plan: bytes, layers: Any, log: Iterable[str]) -> Path:
    """Write an engine's files into `folder`; returns the plan's path. `layers` becomes JSON.

    Each is written under another name and renamed, KEY.json last: what it speaks of is there.
    """
    contents = {
        LAYERS: (json.dumps(layers, indent=1) + "\n").encode(),
        LOG: "".join(f"{line}\n" for line in log).encode(),
        PLAN: plan,
        INFO: _text(info),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{info.key}{INFO}").unlink(missing_ok=True)
        for suffix, content in contents.items():
            replace_file(folder / f"{info.key}{suffix}", content)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder / f"{info.key}{PLAN}"


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under another name, then rename it: readers see the old one or the new one."""
    stage = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        stage.write_bytes(content)
        stage.replace(path)
    finally:
        stage.unlink(missing_ok=True)


def has_plans(bundle: Bundle, package: str, precision: str) -> bool:
    """Whether a bundle says that it has engines of this package and precision."""
    for path in (bundle.path / FOLDER).glob(f"*{INFO}"):
        with suppress(VqtrtError):
            info = _read_info(path, "")
            if (info.package, info.precision) == (package, precision):
                return True
    return False


def find_plan(
    bundle: Bundle,
    graph: str,
    *,
    package: str,
    version: str,
    precision: str,
    gpu: str | None = None,
    capability: str | None = None,
    fits: Mapping[str, int] | None = None,
) -> tuple[Path, PlanInfo]:
    """The engine of a graph for this package, its version and this GPU; reads no plan.

    `fits` gives a number to free sizes (`batch`, `h`, `w`, …), which the engine's profile has to
    span; those left out are free. Of several, the one with the narrowest profile is taken where
    `fits` has all sizes, else the widest.
    """
    build = rebuild(bundle, package, precision)
    spec = bundle.graph_spec(graph_name(graph, precision))
    found: list[tuple[Path, PlanInfo]] = []
    refused = []
    for path in sorted((bundle.path / FOLDER).glob(f"*{INFO}")):
        if path.name.endswith(LAYERS):
            continue
        try:
            info = _read_info(path, build)
        except VqtrtError as error:
            refused.append(str(error))
            continue
        if (info.graph, info.package, info.precision) != (graph, package, precision):
            continue
        reason = _unfit(spec, info, version=version, gpu=gpu, capability=capability)
        if reason is None and not spans(info, spec, fits or {}):
            wanted = ", ".join(f"{name} {size}" for name, size in (fits or {}).items())
            reason = f"its profile does not span {wanted} (see --batch and --size)"
        if reason is None:
            found.append((path.with_suffix(PLAN), info))
        else:
            refused.append(f"{path.with_suffix(PLAN)} cannot be used: {reason}; build it: {build}")
    if not found:
        missing = f"{bundle.path} has no {package} engine of {graph!r} in {precision}: {build}"
        raise VqtrtError(refused[0] if refused else missing)
    free = {size for tensor in spec.inputs for size in tensor.shape if isinstance(size, str)}
    whole = all(axis_size(size, fits or {}) is not None for size in free)
    return (min if whole else max)(found, key=lambda each: _volume(each[1]))


def read_plan(
    bundle: Bundle,
    path: Path,
    *,
    package: str,
    version: str,
    gpu: str | None = None,
    capability: str | None = None,
) -> bytes:
    """The checked bytes of a plan that `find_plan` gave, ready to be deserialised.

    Everything is checked anew, `KEY.json` included: the bytes that are returned are those that
    were hashed, and nothing is taken over from an earlier look.
    """
    build = f"`vqtrt export {bundle.path} --target {package}`"
    inside = (bundle.path / FOLDER).resolve()
    if path.parent.resolve() != inside or path.resolve().parent != inside or path.suffix != PLAN:
        raise VqtrtError(f"{path} is no engine of {bundle.path}; build one: {build}")
    info = _read_info(path.with_suffix(INFO), build)
    build = rebuild(bundle, package, info.precision)
    spec = bundle.graph_spec(graph_name(info.graph, info.precision))
    reason = _unfit(spec, info, version=version, gpu=gpu, capability=capability)
    if info.package != package:
        reason = f"it is for {info.package}"
    if reason is not None:
        raise VqtrtError(f"{path} cannot be used: {reason}; build it: {build}")
    plan = _read(path, info.plan_bytes, build)
    if len(plan) != info.plan_bytes or plan_sha256(plan) != info.plan_sha256:
        raise VqtrtError(_damaged(path, "size or SHA-256 is not that of its .json", build))
    return plan


def whole_plan(bundle: Bundle, info: PlanInfo) -> PlanInfo | None:
    """The engine that is there already under the key of `info`, if its bytes are whole."""
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
        return _read_info(path.with_suffix(INFO), "")
    except VqtrtError:
        return None


def carry_plans(old: Path, new: Path, graphs: Mapping[str, GraphSpec]) -> int:
    """Copy the engines of bundle folder `old` whose graphs are in `graphs`, too, into `new`.

    Returns how many engines. For an export, which replaces a bundle as a whole.
    """
    hashes = {spec.sha256 for spec in graphs.values()}
    files, count = list((old / FOLDER).glob(f"*{TIMING_CACHE}")), 0
    for path in sorted((old / FOLDER).glob(f"*{INFO}")):
        if path.name.endswith(LAYERS):
            continue
        try:
            info = _read_info(path, "")
        except VqtrtError:
            continue
        if info.graph_sha256 in hashes:
            files += [path.with_suffix(each) for each in (PLAN, LAYERS, LOG, RUNTIME_CACHE, INFO)]
            count += 1
    for file in files:
        (new / FOLDER).mkdir(exist_ok=True)
        if file.is_file():
            shutil.copy2(file, new / FOLDER)
    return count


def runtime_cache(plan: Path) -> Path:
    """Where TensorRT for RTX keeps the kernels of a plan."""
    return plan.with_suffix(RUNTIME_CACHE)


def spans(info: PlanInfo, spec: GraphSpec, sizes: Mapping[str, int]) -> bool:
    """Whether a plan's profile takes a graph's inputs at these sizes."""
    for tensor in spec.inputs:
        least, _, largest = info.profile.get(tensor.name, ((), (), ()))
        if not len(least) == len(largest) == len(tensor.shape):
            return False
        wanted = [axis_size(size, sizes) for size in tensor.shape]
        if any(
            size is not None and not low <= size <= high
            for size, low, high in zip(wanted, least, largest, strict=True)
        ):
            return False
    return True


def _unfit(
    spec: GraphSpec, info: PlanInfo, *, version: str, gpu: str | None, capability: str | None
) -> str | None:
    """Why a plan cannot run here; None where it can."""
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


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _text(info: PlanInfo) -> bytes:
    """The one way to write an info: any other byte in a file is damage."""
    content = info.model_dump(mode="json")
    own = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps(content | {"self_sha256": own}, indent=1) + "\n").encode()


def _read_info(path: Path, build: str) -> PlanInfo:
    content = _read(path, _MAX_INFO_BYTES, build)
    try:
        fields = json.loads(content)
        fields.pop("self_sha256")
        info = PlanInfo.model_validate(fields)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        reason = f"{where}: {error.errors()[0]['msg']}"
        raise VqtrtError(_damaged(path, reason, build)) from None
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        raise VqtrtError(_damaged(path, "not the JSON of an engine", build)) from None
    if content != _text(info):
        raise VqtrtError(
            _damaged(path, "its content does not match its own SHA-256", build)
        ) from None
    if path.name != f"{info.key}{INFO}":
        raise VqtrtError(_damaged(path, f"it is that of {info.key}", build))
    return info


def _read(path: Path, limit: int, build: str) -> bytes:
    """All of a file of at most `limit` bytes."""
    try:
        if path.exists() and not path.is_file():
            raise VqtrtError(_damaged(path, "not a file", build))
        if path.stat().st_size > limit:
            raise VqtrtError(_damaged(path, f"larger than its {limit} bytes", build))
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise VqtrtError(f"{path} is missing; build it: {build}") from None
    except OSError as error:
        raise VqtrtError(f"{path}: cannot be read ({error.strerror})") from error
    return content


def _damaged(path: Path, reason: str, build: str) -> str:
    return f"{path} is damaged ({reason}); build it again: {build}"
