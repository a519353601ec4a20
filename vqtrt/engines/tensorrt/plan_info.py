"""What an engine file is for, as `KEY.json` holds it: read in one way, and written in one way."""

import errno
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import GraphSpec, axis_size
from vqtrt.system.files import read_file

PLAN, INFO = ".engine", ".json"
_MAX_INFO_BYTES = 2**20
_MAX_PLAN_BYTES = 2**33
_FORMAT = 2

Shape = Annotated[tuple[Annotated[int, Field(ge=1, lt=2**31)], ...], Field(max_length=8)]
Name = Annotated[str, Field(max_length=4096)]
Profile = dict[str, tuple[Shape, Shape, Shape]]
"""For each input its least shape, the one to be fastest at, and its largest."""


class PlanInfo(BaseModel):
    """What a plan is for: the content of `KEY.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[2] = 2
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
    capturable: bool
    """Built to allocate nothing while it runs, so that many runs fit into one CUDA graph."""
    plan_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    plan_bytes: int = Field(ge=1, le=_MAX_PLAN_BYTES)
    activation_bytes: int | None = Field(ge=0, lt=2**63)
    """Memory on the GPU that a context takes at the largest shapes; None if not known."""
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
        made = {"plan_sha256", "plan_bytes", "activation_bytes", "vqtrt_version"}
        readable = re.sub(r"[^A-Za-z0-9]+", "-", self.graph)[:60]
        return f"{readable}-{self.precision}-{_digest(self.model_dump(mode='json', exclude=made))}"


def plan_sha256(plan: bytes) -> str:
    """SHA-256 of a plan, as a `PlanInfo` holds it."""
    return hashlib.sha256(plan).hexdigest()


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


def varying_sizes(info: PlanInfo, spec: GraphSpec) -> set[str]:
    """The free sizes of a graph that a plan's profile leaves free: `batch`, `t`, …"""
    return {
        size.rpartition("*")[2]
        for tensor in spec.inputs
        if tensor.name in info.profile
        for size, least, largest in zip(
            tensor.shape, info.profile[tensor.name][0], info.profile[tensor.name][2], strict=True
        )
        if isinstance(size, str) and least != largest
    }


def info_text(info: PlanInfo) -> bytes:
    """The one way to write an info: any other byte in a file is damage."""
    content = info.model_dump(mode="json")
    own = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps(content | {"self_sha256": own}, indent=1) + "\n").encode()


def read_info(path: Path, build: str) -> PlanInfo:
    """Read a `KEY.json`; `VqtrtError`, which names the command `build`, if it is not as written."""
    content = read_bounded(path, _MAX_INFO_BYTES, build)
    try:
        fields = json.loads(content)
        fields.pop("self_sha256")
        if isinstance(version := fields.get("format_version"), int) and version != _FORMAT:
            raise VqtrtError(
                f"{path} has format version {version}, and this vqtrt reads {_FORMAT}; build the "
                f"engine again: {build}"
            )
        info = PlanInfo.model_validate(fields)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        reason = f"{where}: {error.errors()[0]['msg']}"
        raise VqtrtError(damaged(path, reason, build)) from None
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        raise VqtrtError(damaged(path, "not the JSON of an engine", build)) from None
    if content != info_text(info):
        raise VqtrtError(
            damaged(path, "its content does not match its own SHA-256", build)
        ) from None
    if path.name != f"{info.key}{INFO}":
        raise VqtrtError(damaged(path, f"it is that of {info.key}", build))
    return info


def read_bounded(path: Path, limit: int, build: str) -> bytes:
    """All of a regular file of at most `limit` bytes; `VqtrtError` for any other."""
    try:
        return read_file(path, limit)
    except FileNotFoundError:
        raise VqtrtError(f"{path} is missing; build it: {build}") from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise VqtrtError(damaged(path, f"larger than its {limit} bytes", build)) from None
        raise VqtrtError(
            f"{path}: cannot be read ({error.strerror}); build it again: {build}"
        ) from error


def damaged(path: Path, reason: str, build: str) -> str:
    """What to tell of a file that is not as it was written."""
    return f"{path} is damaged ({reason}); build it again: {build}"


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
