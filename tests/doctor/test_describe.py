import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from doubles import MODEL, FakeEngine, FakeSource, flip_byte
from speech_doubles import FakeSpeech, FakeSpeechEngine
from tensorrt_doubles import build

from vqtrt.audio import encode as audio_encode
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.doctor.describe import describe
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle
from vqtrt.images import encode as image_encode
from vqtrt.images.tokenizer import ImageTokenizer


def test_a_run(tiny_run):
    facts = describe(tiny_run)
    assert facts["what"] == "run"
    assert (facts["recipe"], facts["data"]) == ("tiny", "shapes:200")
    assert (facts["image_size"], facts["code_shape"]) == ([16, 16], [4, 4])
    assert (facts["codebook_size"], facts["num_codebooks"]) == (16, 1)
    assert (facts["steps_planned"], facts["steps_done"], facts["trained"]) == (20, 20, True)
    assert facts["held_out_nmse"] > 0
    assert 1 <= facts["held_out_perplexity"] <= 16
    assert facts["bundle"] == str(tiny_run / "bundle")
    json.dumps(facts, allow_nan=False)


def test_a_run_that_has_just_begun(tiny_run, tmp_path):
    shutil.copy(tiny_run / "config.yaml", tmp_path)
    facts = describe(tmp_path)
    assert (facts["steps_done"], facts["trained"], facts["bundle"]) == (0, False, None)
    assert facts["held_out_nmse"] is None


def test_a_torn_line_of_metrics_does_not_count(tiny_run, tmp_path):
    shutil.copy(tiny_run / "config.yaml", tmp_path)
    whole = (tiny_run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text(whole[0] + whole[1][:-3])
    facts = describe(tmp_path)
    assert (facts["steps_done"], facts["damaged_lines"]) == (json.loads(whole[0])["step"], 1)


@pytest.mark.parametrize(
    "line",
    [
        b"{ }",
        b'{"step": 5, "evaluation": 3}',
        b'{"step": null}',
        b"[1]",
        b"nonsense }",
        b"\xff\xfe}",
        b"\0" * 40,
        b"[" * 100_000 + b"}",
    ],
)
def test_damaged_lines_of_metrics_are_counted(tiny_run: Path, tmp_path: Path, line: bytes) -> None:
    shutil.copy(tiny_run / "config.yaml", tmp_path)
    whole = (tiny_run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_bytes(b"".join([*whole[:-1], line + b"\n", whole[-1]]))
    facts, expected = describe(tmp_path), describe(tiny_run)
    assert (facts.pop("damaged_lines"), "damaged_lines" in expected) == (1, False)
    for key in ("steps_done", "held_out_nmse", "held_out_perplexity"):
        assert facts[key] == expected[key]


def test_a_bundle(tiny_run, tiny_bundle):
    facts = describe(tiny_bundle)
    assert (facts["what"], facts["kind"], facts["format_version"]) == ("bundle", "image", 1)
    assert (facts["codebook_size"], facts["stride"], facts["image_size"]) == (16, 4, [16, 16])
    assert set(facts["graphs"]) == {"encoder", "decoder"}
    assert "uint8" in facts["graphs"]["encoder"]["inputs"][0]
    assert "int32" in facts["graphs"]["encoder"]["outputs"][0]
    assert facts["bundle_sha256"] == Bundle.open(tiny_bundle).sha256
    assert facts["from_run"] == str(tiny_run)
    json.dumps(facts)


def test_the_engines_of_a_bundle(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert describe(tiny_bundle)["engines"] == {}
    bundle = Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    sizes = {"batch": (1, 4), "h": (4, 4), "w": (4, 4)}
    build(bundle, "tensorrt-rtx", sizes)
    build(bundle, "tensorrt", sizes, graphs=["decoder"])
    engines = describe(bundle.path)["engines"]
    assert [name.split("-")[0] for name in engines] == ["decoder", "decoder", "encoder"]
    by_kind = {(each["graph"], each["package"]): each for each in engines.values()}
    encoder = by_kind["encoder", "tensorrt-rtx"]
    assert encoder["profile"] == {"images": "1x16x16x3, 4x16x16x3, 4x16x16x3"}
    assert (encoder["gpu"], encoder["trusted"], encoder["fits_the_graph"]) == (None, True, True)
    assert by_kind["decoder", "tensorrt"]["gpu"] == "Fake GPU"
    assert set(encoder) > {"precision", "plan_bytes", "activation_bytes", "capturable"}
    json.dumps(engines)
    # Of a stranger, of another graph, and damaged.
    monkeypatch.setenv("VQTRT_STATE", str(tmp_path / "another-user"))
    damaged = next((bundle.path / "engines").glob("encoder-*[0-9a-f].json"))
    damaged.write_text("{}")
    engines = describe(bundle.path)["engines"]
    assert "is damaged" in engines.pop(damaged.stem)["problem"]
    assert [each["trusted"] for each in engines.values()] == [False, False]


@pytest.mark.parametrize("graph", ["encoder.onnx", "decoder.onnx"])
@pytest.mark.parametrize("change", ["flip", "remove"])
def test_a_bundle_is_checked_whole(tiny_bundle, tmp_path, graph, change):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    if change == "flip":
        flip_byte(bundle / graph, 700)
    else:
        (bundle / graph).unlink()
    with pytest.raises(VqtrtError, match=graph):
        describe(bundle)


def test_codes(tmp_path):
    out = tmp_path / "codes.npy"
    source = FakeSource(5, bad=[2])
    tokenizer = ImageTokenizer(FakeEngine())
    image_encode.encode_source(
        tokenizer, source, out, root="x", model=MODEL, workers=1, on_error="skip"
    )
    facts = describe(out)
    assert (facts["what"], facts["rows"], facts["shape"]) == ("codes", 4, [4, 4])
    assert (facts["dtype"], facts["codebook_size"], facts["rejected"]) == ("uint8", 200, 1)
    assert (facts["from"], facts["weights_sha256"]) == ("x", "f" * 64)
    json.dumps(facts)


def test_codes_without_json(tmp_path):
    np.save(tmp_path / "c.npy", np.zeros((3, 2, 5), np.int64))
    assert describe(tmp_path / "c.npy") == {
        "what": "codes",
        "rows": 3,
        "shape": [2, 5],
        "dtype": "int64",
        "json": None,
    }


def test_codes_of_speech(tmp_path):
    out = tmp_path / "codes.npy"
    source = FakeSpeech([100, 8000, 7, 50], bad=[2])
    tokenizer = AudioTokenizer(FakeSpeechEngine())
    audio_encode.encode_source(
        tokenizer, source, out, root="x", model=MODEL, workers=1, on_error="skip"
    )
    facts = describe(out)
    assert (facts["what"], facts["kind"], facts["clips"]) == ("codes", "speech", 3)
    assert (facts["codes"], facts["dtype"], facts["codebook_size"]) == (2038, "uint8", 200)
    assert (facts["sample_rate"], facts["stride"], facts["codes_per_second"]) == (8000, 4, 2000)
    assert facts["seconds"] == pytest.approx(8150 / 8000)
    assert (facts["speakers"], facts["rejected"]) == (["bob", "zoe"], 1)
    assert (facts["from"], facts["weights_sha256"]) == ("x", "f" * 64)
    json.dumps(facts)


def test_codes_of_speech_without_json(tmp_path):
    np.save(tmp_path / "c.npy", np.zeros(7, np.int64))
    assert describe(tmp_path / "c.npy") == {
        "what": "codes",
        "kind": "speech",
        "clips": 1,
        "codes": 7,
        "dtype": "int64",
        "json": None,
    }


def test_what_is_none_of_them(tmp_path):
    with pytest.raises(VqtrtError, match="no such file"):
        describe(tmp_path / "nope")
    with pytest.raises(VqtrtError, match="neither a run, nor a bundle, nor codes"):
        describe(tmp_path)
    (tmp_path / "c.npy").write_text("hello")
    with pytest.raises(VqtrtError, match=r"not a \.npy file"):
        describe(tmp_path / "c.npy")


def test_shards_that_are_done_in_part(tmp_path):
    from doubles import FakeSource
    from pipeline_jobs import encode

    for turn, missing in ((0, 2), (1, 0)):
        encode(FakeSource(23, [4]), tmp_path / "s", on_error="skip", shard_size=5, turn=(turn, 2))
        facts = describe(tmp_path / "s")
        assert (facts["what"], facts["kind"], facts["shards"]) == ("shards", "image", 5)
        assert (facts["format"], facts["row_shape"]) == ("npy", [4, 4])
        assert (facts["missing"], facts["items"], facts["rejected"]) == (missing, 23, 1)
    assert facts["rows"] == 22
