"""Where `vqtrt encode` makes shards: in this process, in one for each GPU, or on a Ray cluster."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqtrt.commands import terminal
from vqtrt.commands.options import ModelOptions, given
from vqtrt.errors import VqtrtError

if TYPE_CHECKING:
    from vqtrt.engines.base import Engine


@dataclass(frozen=True)
class WhereOptions:
    """Which shards are made, and by whom."""

    shard: Annotated[
        str | None,
        typer.Option(help="I/N, from 0: only every Nth shard, from shard I on (job arrays)."),
    ] = None
    devices: Annotated[
        str | None,
        typer.Option(help="GPUs to make shards on, a process for each: 0,1 or all."),
    ] = None
    on: Annotated[
        str | None,
        typer.Option(help="Cluster to make shards on: ray, or ray:HOST:PORT."),
    ] = None
    actors: Annotated[
        int | None, typer.Option(min=1, help="Ray: number of actors (default: as many as fit).")
    ] = None
    cpus_per_actor: Annotated[
        float | None, typer.Option(min=0.01, help="Ray: CPUs of each actor (default: 1).")
    ] = None
    gpus_per_actor: Annotated[
        float | None,
        typer.Option(min=0, help="Ray: GPUs of each actor (default: 1 if there are any)."),
    ] = None

    @property
    def sharded(self) -> bool:
        """Whether only shards can be made in this way."""
        return any(each is not None for each in (self.shard, self.devices, self.on))

    @property
    def turn(self) -> tuple[int, int] | None:
        """`--shard I/N` as two numbers."""
        if self.shard is None:
            return None
        turn, slash, turns = self.shard.partition("/")
        if not (slash and turn.isdecimal() and turns.isdecimal() and int(turn) < int(turns)):
            raise VqtrtError(
                f"--shard {self.shard}: expected I/N with I from 0 to N - 1, such as 0/16"
            )
        return int(turn), int(turns)

    def check(self, use: ModelOptions) -> None:
        """Raise `VqtrtError` for options that do not go together."""
        if self.devices is not None and (self.shard is not None or self.on or use.device):
            raise VqtrtError(
                "--devices: names the devices itself; leave --shard, --on and --device out"
            )
        if self.on is not None:
            cluster, colon, address = self.on.partition(":")
            if cluster != "ray" or (colon and not address):
                raise VqtrtError(f"--on {self.on}: expected ray or ray:HOST:PORT")
            if self.shard is not None or use.device:
                raise VqtrtError("--on ray: divides the shards itself; leave --shard and --device")
        else:
            for name in given(**self._of_ray):
                raise VqtrtError(f"--{name.replace('_', '-')}: goes with --on ray; leave it out")

    @property
    def _of_ray(self) -> dict[str, float | None]:
        return {
            "actors": self.actors,
            "cpus_per_actor": self.cpus_per_actor,
            "gpus_per_actor": self.gpus_per_actor,
        }


def on_devices(where: WhereOptions, out: Path) -> None:
    """Run this command in a process on each device, for its share of the shards."""
    from vqtrt.commands.bars import counting
    from vqtrt.engines.cuda import visible_gpus
    from vqtrt.jobs.devices import encode_on_devices, parse_devices, without_option

    chosen = parse_devices(where.devices or "", visible_gpus)
    with counting("encoding") as counter:
        encode_on_devices(
            without_option(sys.argv[1:], "--devices"),
            out,
            chosen,
            note=terminal.note,
            progress=counter,
        )


def on_ray(
    where: WhereOptions,
    out: Path,
    opener: "Callable[[], tuple[Engine, Callable[..., object]]]",
    **plan: Any,
) -> None:
    """Make shards on a Ray cluster with what `opener` opens there."""
    from vqtrt.commands.bars import counting
    from vqtrt.jobs.on_ray import encode_on_ray
    from vqtrt.jobs.ray_cluster import RayOptions

    told = given(actors=where.actors, cpus=where.cpus_per_actor, gpus=where.gpus_per_actor)
    how = RayOptions((where.on or "").partition(":")[2] or None, **told)
    with counting("encoding") as counter:
        encode_on_ray(opener, out, how, plan=plan, note=terminal.note, progress=counter)


def tell_all(out: Path, as_json: bool) -> None:
    """What a folder holds whose shards several processes made."""
    from vqtrt.formats.shard_codes import merge

    rows, rejected = merge(out)
    without = f", {rejected} rejected (see the .jsonl of the shards)" if rejected else ""
    terminal.note(f"{out} is complete: {rows} items{without}")
    if as_json:
        terminal.show({"out": str(out), "rows": rows, "rejected": rejected}, True)
