import json
import os
from pathlib import Path
from typing import Any

import pytest
from doubles import flip_byte, tree

from vqtrt.errors import VqtrtError
from vqtrt.formats import folder_writer
from vqtrt.formats.folder_writer import RECORD, FolderWriter, is_finished, partial_folder

NAMES = ["a/0.png", "a/1.png", "2.png", "3.png"]
JOB = {"kind": "pictures", "codes_sha256": "c" * 64, "weights_sha256": "w" * 64}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def put(writer: FolderWriter, *indices: int) -> None:
    for index in indices:
        writer.path(index).write_bytes(b"%d" % index * 10)
    writer.wrote(indices)


def start(out: Path, resume: bool = False, **changes: Any) -> FolderWriter:
    return FolderWriter(out, JOB | changes, NAMES, resume=resume)


def break_off(out: Path, monkeypatch: pytest.MonkeyPatch, *indices: int) -> str:
    """Write some files, commit, and be interrupted; what is said of it."""
    monkeypatch.setattr(folder_writer, "_COMMIT_SECONDS", -1)

    def job() -> None:
        with start(out) as writer:
            put(writer, *indices)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        job()
    (note,) = caught.value.__notes__
    return str(note)


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in NAMES}


WHOLE = {name: b"%d" % index * 10 for index, name in enumerate(NAMES)}


@pytest.mark.parametrize("there", [False, True])
def test_an_interrupted_job_is_resumed(
    out: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    if there:
        out.mkdir()
        (out / "mine").touch()
    told = break_off(out, monkeypatch, 0, 2)
    partial = partial_folder(out)
    assert told == f"2 files are kept in {partial}; --resume continues"
    assert partial == (out / ".vqtrt.partial" if there else out.with_name("out.partial"))
    assert not any((out / name).exists() for name in NAMES)
    with start(out, resume=True) as writer:
        assert writer.done == {0, 2}
        put(writer, 1, 3)
        writer.finish()
    assert contents(out) == WHOLE
    assert tree(out) == sorted(["2.png", "3.png", "a", "a/0.png", "a/1.png", *["mine"] * there])
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_a_crash_tore_is_made_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_off(out, monkeypatch, 0, 1, 2, 3)
    partial = partial_folder(out)
    flip_byte(partial / NAMES[0], 3)
    (partial / NAMES[1]).write_bytes(b"")
    (partial / NAMES[2]).unlink()
    with (partial / ".vqtrt.jsonl").open("ab") as journal:
        journal.write(b"[2, 10")
    with start(out, resume=True) as writer:
        assert writer.done == {3}
        put(writer, 0, 1, 2)
        writer.finish()
    assert contents(out) == WHOLE


def test_without_resume_it_is_started_anew(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_off(out, monkeypatch, 0, 1)
    (partial_folder(out) / "a/other.png").touch()
    with start(out) as writer:
        assert writer.done == set()
        put(writer, 0, 1, 2, 3)
        writer.finish()
    assert tree(out) == sorted([*NAMES, "a"])


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [("codes_sha256", "0", "the codes"), ("weights_sha256", "0", "the model"), ("seed", 1, "seed")],
)
def test_another_job_is_refused(
    out: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any, what: str
) -> None:
    break_off(out, monkeypatch, 0)
    with pytest.raises(VqtrtError, match=f"{what}.* changed since it was begun; .*anew without"):
        start(out, resume=True, **{key: value})
    with start(out, resume=True) as writer:
        put(writer, 1, 2, 3)
        writer.finish()
    with pytest.raises(VqtrtError, match=f"{what}.* changed since it was begun"):
        is_finished(out, JOB | {key: value}, NAMES)


@pytest.mark.parametrize("attributes", [True, False])
def test_a_finished_job_is_known(
    out: Path, monkeypatch: pytest.MonkeyPatch, attributes: bool
) -> None:
    def fails(*args: object) -> None:
        raise OSError(95, "Operation not supported")

    if not attributes:
        monkeypatch.setattr(os, "setxattr", fails)
    assert not is_finished(out, JOB, NAMES)
    with start(out) as writer:
        put(writer, 0, 1, 2, 3)
        assert not is_finished(out, JOB, NAMES)
        writer.finish()
    assert (out / RECORD).exists() != attributes
    assert is_finished(out, JOB, NAMES)
    (out / NAMES[1]).unlink()
    assert not is_finished(out, JOB, NAMES)


def test_one_writer_at_a_time(out: Path) -> None:
    with start(out) as writer:
        put(writer, 0)
        with pytest.raises(VqtrtError, match="out: another process is writing it"):
            start(out)
        put(writer, 1, 2, 3)
        writer.finish()
    assert contents(out) == WHOLE


def test_nothing_is_kept_where_nothing_can_be_resumed(out: Path) -> None:
    def job(committed: bool) -> None:
        with FolderWriter(out, JOB, NAMES, resume=False, keep=not committed) as writer:
            put(writer, 0)
            if committed:
                writer._commit()
            raise VqtrtError("broken")

    for committed in (True, False):
        with pytest.raises(VqtrtError, match=r"^broken$"):
            job(committed)
        assert tree(out.parent) == []


def test_a_full_disk_says_what_is_kept(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_writer, "_COMMIT_SECONDS", -1)

    def job() -> None:
        with start(out) as writer:
            put(writer, 0)
            raise OSError(28, "No space left on device")

    with pytest.raises(VqtrtError, match=r"No space left on .*; 1 files are kept in .*--resume"):
        job()


def test_a_strangers_journal_is_no_danger(out: Path) -> None:
    partial = partial_folder(out)
    partial.mkdir()
    lines = [{"job": {}}, [99, 1, 1], [0, "x", 1], {"a": 1}]
    (partial / ".vqtrt.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(VqtrtError, match="changed since it was begun"):
        start(out, resume=True)
    (partial / ".vqtrt.jsonl").write_text("[" * 100_000 + "\n")
    with start(out, resume=True) as writer:
        assert writer.done == set()
