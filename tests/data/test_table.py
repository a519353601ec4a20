"""Parquet files and folders of Arrow files: as folders of the same files, and what is wrong."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doubles import picture, write_pictures
from recordings import noise, put

from vqtrt.data import table as module
from vqtrt.data.audio.decode import AudioPreprocessing
from vqtrt.data.audio.folder import AudioFolder
from vqtrt.data.audio.open import open_speech
from vqtrt.data.images.folder import ImageFolder
from vqtrt.data.images.open import open_images
from vqtrt.data.images.table import ImageTable
from vqtrt.data.table import Table
from vqtrt.errors import ImageError, VqtrtError

NAMES = ["a/1.png", "a/2.png", "b/é.png", "b/x.png", "c/0.png"]


def structs(files: dict[str, bytes | None], large: bool = False) -> pa.Array:
    kind = pa.large_binary() if large else pa.binary()
    rows = [{"bytes": data, "path": name} for name, data in files.items()]
    return pa.array(rows, pa.struct([("bytes", kind), ("path", pa.string())]))


def with_names(table: pa.Table, names: list[str]) -> pa.Table:
    """With the metadata that Hugging Face writes for a ClassLabel."""
    told = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    return table.replace_schema_metadata({"huggingface": json.dumps(told)})


def write(path: Path, table: pa.Table, rows: int = 2) -> Path:
    """As Parquet, or as what `save_to_disk` writes in two files."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows)
        return path
    path.mkdir()
    half = len(table) // 2
    names = []
    for number, part in enumerate((table[:half], table[half:])):
        names.append({"filename": f"data-{number:05}-of-00002.arrow"})
        file = str(path / names[-1]["filename"])
        with pa.OSFile(file, "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(part, max_chunksize=rows)
    (path / "state.json").write_text(json.dumps({"_data_files": names}))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    return ImageFolder(write_pictures(tmp_path / "pics", *NAMES))


def contents(folder: ImageFolder) -> dict[str, bytes | None]:
    return {item.name: folder.path(item).read_bytes() for item in folder.items()}


@pytest.mark.parametrize("name", ["x.parquet", "saved"])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("labels", ["numbers", "names", "texts"])
def test_a_table_is_the_folder_of_its_files(folder, tmp_path, name, large, labels):
    items = list(folder.items())
    numbers = [item.label for item in items]
    column = [folder.classes[n] for n in numbers] if labels == "texts" else numbers
    made = pa.table({"image": structs(contents(folder), large), "label": column})
    if labels == "names":
        made = with_names(made, list(folder.classes))
    found = open_images(write(tmp_path / name, made))
    assert isinstance(found, ImageTable)
    assert found.classes == (("0", "1", "2") if labels == "numbers" else folder.classes)
    for one, other in zip(found.items(), items, strict=True):
        assert (one.name, one.label) == (other.name, other.label)
        np.testing.assert_array_equal(found.read(one), folder.read(other))


@pytest.mark.parametrize("name", ["x.parquet", "saved"])
def test_a_column_of_bytes_alone(folder, tmp_path, name):
    data = list(contents(folder).values())
    made = pa.table({"id": range(5), "picture": pa.array(data, pa.binary())})
    found = open_images(write(tmp_path / name, made))
    assert found.classes == ()
    assert [(item.name, item.label) for item in found.items()] == [
        (f"{name}[{row}]", -1) for row in range(5)
    ]
    np.testing.assert_array_equal(
        found.read(list(found.items())[3]), folder.read(list(folder.items())[3])
    )


def test_which_column(folder, tmp_path):
    data = contents(folder)
    two = pa.table({"first": structs(data), "second": structs(data), "n": range(5)})
    path = write(tmp_path / "x.parquet", two)
    with pytest.raises(VqtrtError, match=r"columns of bytes: first, second .*x\.parquet:COLUMN"):
        open_images(path)
    assert ImageTable(path, "second").table.column == "second"
    assert isinstance(open_images(f"{path}:second"), ImageTable)
    with pytest.raises(VqtrtError, match="no column n of bytes"):
        open_images(f"{path}:n")
    none = write(tmp_path / "y.parquet", pa.table({"n": [1]}))
    with pytest.raises(VqtrtError, match=r"y\.parquet: has no column of bytes \(all: n\)"):
        open_images(none)
    usual = write(tmp_path / "z.parquet", two.rename_columns(["image", "mask", "n"]))
    assert ImageTable(usual).table.column == "image"


@pytest.mark.parametrize("name", ["x.parquet", "saved"])
def test_rows_without_bytes_and_without_labels(folder, tmp_path, name):
    data = contents(folder) | {"a/2.png": None}
    made = pa.table({"image": structs(data), "label": [0, 1, None, -1, 2]})
    found = open_images(write(tmp_path / name, made))
    items = list(found.items())
    assert [item.label for item in items] == [0, 1, -1, -1, 2]
    with pytest.raises(ImageError, match=rf"{name}\[1\]: the row has no bytes"):
        found.read(items[1])
    assert found.read(items[2]).shape == (16, 16, 3)
    broken = pa.table({"image": structs(data | {"b/x.png": b"no picture"})})
    other = open_images(write(tmp_path / f"other{Path(name).suffix}", broken))
    (bad,) = (item for item in other.items() if item.name == "b/x.png")
    with pytest.raises(ImageError, match=r"\[\d\]: not an image that can be read"):
        other.read(bad)


@pytest.mark.parametrize("name", ["x.parquet", "saved"])
@pytest.mark.parametrize("told", [False, True])
def test_recordings(tmp_path, name, told):
    root = tmp_path / "talk"
    for index, path in enumerate(["ann/x.wav", "ann/y.wav", "bob/x.wav"]):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        put(root / path, noise(700 + index, seed=index))
    folder = AudioFolder(root)
    items = list(folder.items())
    data = {item.name: folder.path(item).read_bytes() for item in items}
    columns = {"audio": structs(data), "text": ["one", None, "three"]}
    if told:
        columns |= {"speaker_id": [folder.classes[item.label] for item in items]}
    found = open_speech(write(tmp_path / name, pa.table(columns)))
    assert found.classes == folder.classes
    how = AudioPreprocessing(sample_rate=8000, level_db=-20)
    for one, other in zip(found.items(), items, strict=True):
        assert (one.name, one.label) == (other.name, other.label)
        np.testing.assert_array_equal(found.read(one, how), folder.read(other, how))
    assert [found.text(item) for item in found.items()] == ["one", None, "three"]


def test_rows_in_any_order_and_by_many_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_KEPT", 40_000)
    data = [bytes([row % 256]) * (row % 100) for row in range(3000)]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": pa.array(data, pa.binary())}), path, row_group_size=700)
    table = Table(path, None, ())
    rng = np.random.default_rng(0)
    for row in [2999, 0, 1, 699, 700, 701, *rng.integers(0, 3000, 60).tolist()]:
        assert table.read(row) == data[row]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(table.read, range(3000))) == data


def test_a_large_row_group_takes_little_memory(tmp_path, monkeypatch):
    """Of 64 MB in one row group no more than some MB are in memory at once."""
    monkeypatch.setattr(module, "_KEPT", 2 << 20)
    rng = np.random.default_rng(0)
    data = [rng.bytes(1 << 16) for _ in range(1024)]
    path = tmp_path / "x.parquet"
    column = pa.array(data, pa.binary())
    # Writers end a page every 1,024 values at the latest, and a page is in memory as a whole.
    pq.write_table(pa.table({"x": column}), path, row_group_size=1024, write_batch_size=16)
    del data, column
    before, most = pa.total_allocated_bytes(), 0
    table = Table(path, None, ())
    for row in range(table.count):
        assert len(table.read(row) or b"") == 1 << 16
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 16 << 20


@pytest.mark.parametrize("cut", [0, 3, 100, -1, -9])
def test_a_damaged_parquet_file_is_named(folder, tmp_path, cut):
    path = write(tmp_path / "x.parquet", pa.table({"image": structs(contents(folder))}))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(VqtrtError, match=r"x\.parquet: cannot be read as a table"):
        open_images(path)


def test_damaged_pages_are_named(folder, tmp_path):
    path = write(tmp_path / "x.parquet", pa.table({"image": structs(contents(folder))}))
    found = open_images(path)
    items = list(found.items())
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :])
    with pytest.raises(VqtrtError, match=r"x\.parquet"):
        [found.read(item) for item in items]


@pytest.mark.parametrize(
    "state", ["", "[]", "{}", '{"_data_files": []}', '{"_data_files": [{"filename": "../x"}]}']
)
def test_a_damaged_state_is_named(folder, tmp_path, state):
    path = write(tmp_path / "saved", pa.table({"image": structs(contents(folder))}))
    (path / "state.json").write_text(state)
    with pytest.raises(VqtrtError, match=r"state\.json: no state that save_to_disk wrote"):
        open_images(path)


def test_files_that_are_missing_or_no_arrow_are_named(folder, tmp_path):
    path = write(tmp_path / "saved", pa.table({"image": structs(contents(folder))}))
    second = path / "data-00001-of-00002.arrow"
    second.write_bytes(second.read_bytes()[:-200])
    with pytest.raises(VqtrtError, match="saved: cannot be read as a table"):
        open_images(path)
    second.unlink()
    with pytest.raises(VqtrtError, match="saved: cannot be read as a table"):
        open_images(path)


def test_no_rows_are_an_error(tmp_path):
    empty = pa.table({"image": structs({})})
    for name in ("x.parquet", "saved"):
        with pytest.raises(VqtrtError, match=f"{name}: has no rows"):
            open_images(write(tmp_path / name, empty))


def test_names_of_strangers_are_names_only(tmp_path):
    out = io.BytesIO()
    picture(0).save(out, "PNG")
    made = pa.table({"image": structs({"../../etc/x.png": out.getvalue(), "": out.getvalue()})})
    found = open_images(write(tmp_path / "x.parquet", made))
    assert [item.name for item in found.items()] == ["../../etc/x.png", "x.parquet[1]"]
