import hashlib
import json
import os
import shutil

import pytest

from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import INFO, Bundle, TensorSpec, axis_size, file_sha256


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    """A bundle of one's own."""
    path = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, path)
    return path


def rewrite(bundle, change):
    """Change bundle.json as someone would who knows how its hash is made."""
    content = json.loads((bundle / INFO).read_text())
    change(content)
    content.pop("self_sha256", None)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["self_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (bundle / INFO).write_text(json.dumps(content))


def test_open(bundle, tiny_bundle):
    opened = Bundle.open(bundle)
    assert opened.info.kind == "image"
    assert opened.sha256 == Bundle.open(tiny_bundle).sha256
    for name in ("encoder", "decoder"):
        assert opened.graph_bytes(name) == (bundle / f"{name}.onnx").read_bytes()


def test_rewriting_nothing_opens(bundle):
    """`rewrite` hashes as the bundle does, or the tests below would test the hash alone."""
    before = Bundle.open(bundle).sha256
    rewrite(bundle, lambda content: None)
    assert Bundle.open(bundle).sha256 == before


def test_the_hash_covers_every_fact(bundle):
    before = Bundle.open(bundle).sha256
    rewrite(bundle, lambda content: content["source"].update(recipe="another"))
    assert Bundle.open(bundle).sha256 != before


@pytest.mark.parametrize("name", ["encoder", "decoder"])
@pytest.mark.parametrize("place", [0, 0.3, 0.6, -1])
def test_a_flipped_byte_of_a_graph(bundle, name, place):
    path = bundle / f"{name}.onnx"
    content = bytearray(path.read_bytes())
    content[int(place * len(content)) if place > 0 else place] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(VqtrtError, match=rf"{name}\.onnx is damaged.*export the run again"):
        Bundle.open(bundle).graph_bytes(name)


def test_every_flipped_bit_of_bundle_json(bundle):
    good = (bundle / INFO).read_bytes()
    for place in range(len(good)):
        content = bytearray(good)
        content[place] ^= 1 << place % 8
        (bundle / INFO).write_bytes(content)
        with pytest.raises(VqtrtError) as error:
            Bundle.open(bundle)
        assert "\n" not in str(error.value)


def test_a_shortened_graph(bundle):
    content = (bundle / "decoder.onnx").read_bytes()
    (bundle / "decoder.onnx").write_bytes(content[:-1])
    with pytest.raises(VqtrtError, match="damaged"):
        Bundle.open(bundle).graph_bytes("decoder")


def test_a_missing_graph_names_the_command(bundle):
    (bundle / "decoder.onnx").unlink()
    with pytest.raises(VqtrtError, match=r"decoder\.onnx is missing; .*vqtrt export"):
        Bundle.open(bundle).graph_bytes("decoder")


def test_no_such_graph(bundle):
    with pytest.raises(VqtrtError, match="no graph 'prior' in this bundle; it has"):
        Bundle.open(bundle).graph_bytes("prior")


@pytest.mark.parametrize(
    "file",
    ["../secret.onnx", "/etc/passwd", "a/../../secret.onnx", "", ".", "a\0b", "\ud800", ".."],
)
def test_a_file_outside_of_the_bundle_is_not_read(bundle, file):
    secret = bundle.parent / "secret.onnx"
    secret.write_bytes(b"secret")

    def point(content):
        sha256 = file_sha256(secret)
        content["graphs"]["encoder"].update(file=file, sha256=sha256)

    rewrite(bundle, point)
    with pytest.raises(VqtrtError) as error:
        Bundle.open(bundle).graph_bytes("encoder")
    str(error.value).encode()


def test_a_pipe_is_not_waited_for(bundle):
    (bundle / "encoder.onnx").unlink()
    os.mkfifo(bundle / "encoder.onnx")
    with pytest.raises(VqtrtError, match="cannot be read"):
        Bundle.open(bundle).graph_bytes("encoder")


def test_a_newer_format_asks_for_an_upgrade(bundle):
    rewrite(bundle, lambda content: content.update(format_version=2, news=True))
    with pytest.raises(VqtrtError, match=r"format version 2, .*reads version 1; upgrade"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b"{}",
        b'{"format_version": 1}',
        b'{"format_version": []}',
    ],
)
def test_what_is_no_bundle_json(bundle, content):
    (bundle / INFO).write_bytes(content)
    with pytest.raises(VqtrtError, match=r"bundle\.json") as error:
        Bundle.open(bundle)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_a_huge_bundle_json_is_not_read(bundle):
    with (bundle / INFO).open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(VqtrtError, match="larger than"):
        Bundle.open(bundle)


def test_a_huge_graph_is_not_read(bundle):
    with (bundle / "encoder.onnx").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(VqtrtError, match="larger than"):
        Bundle.open(bundle).graph_bytes("encoder")


def test_no_bundle_there(tmp_path):
    with pytest.raises(VqtrtError, match="is no bundle: it has no"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("codebook_size", 1), ("num_codebooks", 0), ("stride", 0), ("stride", "4px"), ("news", 1)],
)
def test_facts_that_cannot_be(bundle, key, value):
    rewrite(bundle, lambda content: content["model"].update({key: value}))
    with pytest.raises(VqtrtError, match=rf"damaged \(model\.{key}: "):
        Bundle.open(bundle)


def test_sizes_of_a_table():
    assert axis_size(3, {}) == 3
    assert axis_size("h", {"h": 8}) == 8
    assert axis_size("4*h", {"h": 8}) == 32
    assert axis_size("4*h", {}) is None
    assert axis_size("x*h", {"h": 8}) is None
    tensor = TensorSpec(name="audio", dtype="float32", shape=("batch", "64*t", 1))
    assert tensor.resolve({"batch": 2, "t": 5, "h": 0}) == (2, 320, 1)
    with pytest.raises(VqtrtError, match="leave some of it open"):
        tensor.resolve({"batch": 2})
