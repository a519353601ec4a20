"""The command line: it registers the commands, and turns errors into one line and an exit status.

Nothing heavy is imported here: `vqtrt --help` answers without numpy or torch.
"""

import signal
from collections.abc import Callable
from typing import Annotated, Any

import typer

from vqtrt.commands.audio import convert, probe
from vqtrt.commands.bench import bench_decode, bench_encode, bench_engine, bench_sample
from vqtrt.commands.export import export, verify
from vqtrt.commands.look import doctor, info, shapes
from vqtrt.commands.options import main_process
from vqtrt.commands.sample import sample
from vqtrt.commands.terminal import Commands, fail, warnings_shown
from vqtrt.commands.tokenize import decode, encode, evaluate, merge, plan
from vqtrt.commands.train import train, train_prior
from vqtrt.errors import Interrupted, VqtrtError, explain
from vqtrt.system import interrupts
from vqtrt.system.ending import end
from vqtrt.version import __version__

app = typer.Typer(
    cls=Commands,
    help="VQ-VAE from training to deployment: images and audio to codes and back, on any engine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
bench = typer.Typer(help="Measure the speed of a model on this machine.", no_args_is_help=True)

_PANELS: dict[str, dict[str, Callable[..., Any]]] = {
    "Train and export": {"train": train, "train-prior": train_prior, "export": export},
    "Run": {"encode": encode, "decode": decode, "sample": sample, "convert": convert},
    "Shards": {"plan": plan, "merge": merge},
    "Measure": {"eval": evaluate, "verify": verify, "probe": probe},
    "Inspect": {"info": info, "doctor": doctor, "shapes": shapes},
}
"""The groups of `vqtrt --help`, in the order of work."""

for _panel, _commands in _PANELS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_panel)(_command)
app.add_typer(bench, name="bench", rich_help_panel="Inspect")
for _name, _command in {
    "encode": bench_encode,
    "decode": bench_decode,
    "sample": bench_sample,
    "engine": bench_engine,
}.items():
    bench.command(_name)(_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"vqtrt {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Options of the program itself."""


def main() -> None:
    """Run a command; a `VqtrtError` is printed as one line, with exit status 1.

    One that a signal ended has the exit status that a shell gives for it: 128 and the number.
    """
    end(_status())


def _status() -> int | str | None:
    """Run a command; its exit status."""
    with interrupts.handled(), warnings_shown():
        try:
            app()
            return 0
        except (Interrupted, KeyboardInterrupt) as error:
            # The second, if a signal comes while Typer puts its commands together.
            number = interrupts.received() or signal.SIGINT
            ended = error if isinstance(error, Interrupted) else Interrupted(number)
            if main_process():
                fail(explain(ended))
            return ended.status
        except (VqtrtError, MemoryError, OSError) as error:
            fail(explain(error))
            return 1
        except SystemExit as ended_by:
            # Typer's own, if a signal came before the command began.
            came = interrupts.received()
            return Interrupted(came).status if came and ended_by.code else ended_by.code
