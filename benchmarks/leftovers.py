"""What an interrupted job left: whole outputs, parts to resume from, or something torn."""

import json
from pathlib import Path


def contents(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """The bytes of all files among some outputs, by path."""
    found: dict[str, bytes] = {}
    for name in names:
        path = folder / name
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        found |= {str(p.relative_to(folder)): p.read_bytes() for p in files}
    return found


def stages(folder: Path) -> list[str]:
    """Hidden files and folders of half-written outputs."""
    found = (p for p in folder.rglob(".*") if p.name.endswith((".partial", ".old")))
    return sorted(str(path.relative_to(folder)) for path in found)


def leftovers(folder: Path) -> list[str]:
    """All that is there only while a job runs, or to resume it."""
    found = (
        p
        for p in folder.rglob("*")
        if p.name.endswith((".partial", ".partial.jsonl", ".partial.files"))
    )
    locks = [str(p.relative_to(folder)) for p in folder.rglob(".*lock")]
    return sorted(
        {str(path.relative_to(folder)) for path in found} | set(locks) | set(stages(folder))
    )


def torn(outputs: tuple[str, ...], folder: Path, whole: dict[str, bytes]) -> list[str]:
    """What an interrupted job left that is no whole output and nothing to resume from.

    `whole` has the files of the unbroken job, by path.
    """
    faults = [f"{name} is left" for name in stages(folder)]
    for name in outputs:
        found = contents(folder, (name,))
        expected = {key: data for key, data in whole.items() if key in contents_of(name, whole)}
        if found and found.keys() != expected.keys():
            faults.append(f"{name} is there in part")
    for checkpoint in folder.rglob("checkpoints/step-*"):
        names = {path.name for path in checkpoint.iterdir()}
        if names != {"model.safetensors", "optimizer.safetensors", "state.json"}:
            faults.append(f"{checkpoint.relative_to(folder)} is there in part")
    for weights in folder.rglob("*.safetensors"):
        header = weights.read_bytes()
        length = int.from_bytes(header[:8], "little")
        tensors = json.loads(header[8 : 8 + length])
        ends = [t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"]
        if len(header) != 8 + length + max(ends):
            faults.append(f"{weights.relative_to(folder)} is torn")
    return faults


def contents_of(name: str, whole: dict[str, bytes]) -> set[str]:
    """Paths of an output among those of all."""
    return {path for path in whole if path == name or path.startswith(f"{name}/")}
