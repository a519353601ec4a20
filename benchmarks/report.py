"""What the benchmarks have in common: commands, tables, and the machine's name."""

import json
import platform
import subprocess
from pathlib import Path
from typing import Any


def heading(text: str) -> None:
    """The title of a report, and what it was measured on."""
    print(f"# {text}\n\n{_machine()}\n")


def vqtrt(*arguments: str) -> dict[str, Any]:
    """Run a command with --json; print it as the heading of its figures."""
    command = ["vqtrt", *arguments, "--json"]
    print(f"`{' '.join(command)}`\n", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def table(figures: dict[str, Any], names: tuple[str, ...]) -> None:
    """A line a figure."""
    print("| figure | value |\n|---|---|")
    for name in names:
        value = figures[name]
        print(f"| {name} | {f'{value:.5g}' if isinstance(value, float) else value} |")
    print(flush=True)


def _machine() -> str:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    cores = Path("/proc/cpuinfo").read_text(encoding="utf-8").count("processor\t")
    return f"Machine: {cores} cores, {model}, no GPU; Python {platform.python_version()}."
