import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vqtrt.config.images import TrainConfig
from vqtrt.config.location import find_model
from vqtrt.errors import VqtrtError
from vqtrt.formats.codes import read_codes
from vqtrt.priors.runs import PriorRun, trained_priors
from vqtrt.training import prior_start
from vqtrt.training.image_prior import ImagePriorTask
from vqtrt.training.loop import learning_rate
from vqtrt.training.prior_start import plan_prior


@pytest.fixture
def run(tiny_run, tmp_path):
    """A run of one's own."""
    path = tmp_path / "run"
    shutil.copytree(tiny_run, path, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    return path


def lines(path):
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in found]


def assert_equal(one, other):
    one, other = (load_file(path / "model.safetensors") for path in (one, other))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_it_leaves(tiny_prior):
    path = tiny_prior / "priors" / "pixelcnn"
    reports = [line for line in lines(path) if "loss" in line]
    assert [line["step"] for line in reports] == [5, 10, 15, 20]
    assert set(reports[0]) == {"step", "loss", "bits_per_code"}
    assert reports[-1]["loss"] < reports[0]["loss"] - 0.1
    assert reports[0]["bits_per_code"] == pytest.approx(reports[0]["loss"] / np.log(2))
    ends = [line["evaluation"] for line in lines(path) if "evaluation" in line]
    assert [set(end) for end in ends] == [{"bits_per_code", "prior_bits_per_dim"}] * 2
    assert ends[1]["bits_per_code"] < ends[0]["bits_per_code"] < 4.5
    assert ends[0]["prior_bits_per_dim"] == pytest.approx(ends[0]["bits_per_code"] / 48)
    pictures = sorted((path / "samples").iterdir())
    assert [picture.name for picture in pictures] == ["step-00000010.png", "step-00000020.png"]
    prior = PriorRun.open(path)
    with Image.open(pictures[1]) as image:
        assert image.size == (8 * 34 + 2, len(prior.config.codes.classes) * 34 + 2)
        assert np.asarray(image).std() > 0
    assert prior.config.prior.kernel == 3
    assert prior.config.prior.num_classes == len(prior.config.codes.classes) > 1
    assert (prior.config.codes.height, prior.config.codes.width) == (4, 4)
    facts = trained_priors(tiny_prior)["pixelcnn"].info()
    assert (facts.codebook_size, facts.num_codebooks, facts.receptive_field) == (16, 1, 4)


def test_a_resumed_prior_is_the_unbroken_one(run, make_prior, make_log):
    settings = ("train.schedule=cosine", "train.warmup_steps=4", "prior.dropout=0.2")
    make_prior(run, "unbroken", *settings)
    with pytest.raises(KeyboardInterrupt):
        make_prior(run, "broken", *settings, watcher=make_log(stop_at=13))
    log = make_log()
    make_prior(run, "broken", *settings, watcher=log, resume=True)
    assert log.named("started") == [(10, 20)]
    unbroken, broken = (run / "priors" / name for name in ("unbroken", "broken"))
    assert_equal(unbroken, broken)
    assert lines(unbroken) == lines(broken)
    # Two priors stand in one run.
    assert set(trained_priors(run)) == {"unbroken", "broken"}


def test_resuming_encodes_nothing_again(run, make_prior, make_log, monkeypatch):
    def stop(*args, **options):
        raise AssertionError("encodes again")

    with pytest.raises(KeyboardInterrupt):
        make_prior(run, watcher=make_log(stop_at=13))
    with monkeypatch.context() as patch:
        patch.setattr(prior_start.image_encode, "encode_source", stop)
        make_prior(run, "pixelcnn", resume=True)
        # Other rows would be held out.
        with pytest.raises(VqtrtError, match=r"the data changed .*: 200 items then, 201 now"):
            make_prior(run, "pixelcnn", "data.path=shapes:201", resume=True)


def test_a_prior_that_fails_at_its_start_leaves_no_folder(run, make_prior, monkeypatch):
    def fail(self, device):
        raise MemoryError

    monkeypatch.setattr(ImagePriorTask, "start", fail)
    with pytest.raises(MemoryError):
        make_prior(run)
    left = {path.name for path in (run / "priors").iterdir()}
    assert left == {"pixelcnn.json", "pixelcnn.npy"}


_PROCESS = """
import sys
from pathlib import Path

import torch.distributed as dist

from conftest import train_tiny_prior

train_tiny_prior(Path(sys.argv[1]))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_encode_once_and_train_one_prior(run, make_prior, tmp_path):
    make_prior(run, "alone")
    script = tmp_path / "process.py"
    script.write_text(_PROCESS)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{Path.cwd()}:{Path(__file__).parents[1]}",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*command, script, run], env=environment, check=True, capture_output=True, timeout=300
    )
    one, two = (trained_priors(run)[name].path for name in ("alone", "pixelcnn"))
    # Each process has half of each batch: the same gradients, summed in another order.
    ends = [lines(path)[-1]["evaluation"]["bits_per_code"] for path in (one, two)]
    assert ends[0] == pytest.approx(ends[1], abs=0.02)


def test_names_with_dots_have_codes_of_their_own(run, make_prior):
    short = ("train.steps=1",)
    for name in ("v1.0", "v1.1"):
        make_prior(run, name, *short)
    assert {path.name for path in (run / "priors").glob("*.npy")} == {"v1.0.npy", "v1.1.npy"}
    with pytest.raises(VqtrtError, match=r"v1\.0 exists already"):
        make_prior(run, "v1.0", *short)
    with pytest.raises(VqtrtError, match="--name"):
        make_prior(run, "../v2", *short)
    with pytest.raises(VqtrtError, match="nothing to resume"):
        plan_prior(find_model(run), None, "v3", short, workers=1, resume=True)


def test_without_labels_and_of_two_codebooks(tiny_prior2):
    prior = trained_priors(tiny_prior2)["pixelcnn"]
    assert prior.config.codes.classes == ()
    assert prior.config.prior.num_classes == 0
    assert prior.config.prior.num_codebooks == 2
    reports = [line["loss"] for line in lines(prior.path) if "loss" in line]
    assert reports[-1] < reports[0] - 0.1
    end = lines(prior.path)[-1]["evaluation"]
    assert end["prior_bits_per_dim"] == pytest.approx(end["bits_per_code"] * 2 / 48)


def test_codes_of_another_tokenizer_are_refused(run, tiny_prior2):
    codes = tiny_prior2 / "priors" / "pixelcnn.npy"
    with pytest.raises(VqtrtError, match="codes of another tokenizer"):
        plan_prior(
            find_model(run), "pixelcnn", None, [f"data.path={codes}"], resume=False, workers=1
        )


def test_a_codes_file_is_taken_as_it_is(run, tiny_prior, tmp_path):
    codes = tiny_prior / "priors" / "pixelcnn.npy"
    options: dict[str, Any] = {"resume": False, "workers": 1}
    planned = plan_prior(find_model(run), "pixelcnn", None, [f"data.path={codes}"], **options)
    assert planned.codes.path == codes
    np.testing.assert_array_equal(planned.codes.codes, read_codes(codes).codes)
    assert not (run / "priors").exists()
    alone = shutil.copytree(run / "bundle", tmp_path / "alone")
    with pytest.raises(VqtrtError, match="is a bundle"):
        plan_prior(find_model(alone), "pixelcnn", None, [], **options)


def test_no_held_out_row_is_trained_on(tiny_prior, make_log):
    from vqtrt.images.tokenizer import ImageTokenizer

    prior = trained_priors(tiny_prior)["pixelcnn"]
    codes = read_codes(tiny_prior / "priors" / "pixelcnn.npy")
    task = ImagePriorTask(
        prior.config, codes, ImageTokenizer.__new__(ImageTokenizer), torch.zeros(1, 16, 4)
    )
    assert len(task.held_out) == 16
    assert sorted([*task.training, *task.held_out]) == list(range(len(codes.codes)))
    whole, halves = (
        [list(task.batches(range(3), rank, world)) for rank in range(world)] for world in (1, 2)
    )
    for step in range(3):
        parts = np.concatenate([half[step].codes for half in halves])
        assert sorted(map(bytes, parts)) == sorted(map(bytes, whole[0][step].codes))


def test_learning_rate():
    flat = TrainConfig(steps=100, learning_rate=0.5)
    assert [learning_rate(flat, step) for step in (0, 50, 99)] == [0.5] * 3
    warm = TrainConfig(steps=100, learning_rate=0.5, warmup_steps=10)
    assert learning_rate(warm, 0) == pytest.approx(0.05)
    assert learning_rate(warm, 4) == pytest.approx(0.25)
    assert learning_rate(warm, 9) == learning_rate(warm, 99) == 0.5
    cosine = TrainConfig(steps=100, learning_rate=0.5, schedule="cosine")
    assert learning_rate(cosine, 0) == 0.5
    assert learning_rate(cosine, 50) == pytest.approx(0.25)
    rates = [learning_rate(cosine, step) for step in range(100)]
    assert sorted(rates, reverse=True) == rates
    assert 0 < rates[-1] < 0.001
    both = TrainConfig(steps=100, learning_rate=0.5, schedule="cosine", warmup_steps=10)
    assert learning_rate(both, 4) == pytest.approx(learning_rate(cosine, 4) / 2)


def test_folders_of_others_beside_priors_are_no_priors(run: Path) -> None:
    (run / "priors/notes").mkdir(parents=True)
    (run / "priors/notes/config.yaml").write_text("hydra: {}\n")
    assert trained_priors(run) == {}
    (run / "priors/notes/model.safetensors").touch()
    with pytest.raises(VqtrtError, match=r"notes/config\.yaml: unknown setting 'hydra'"):
        trained_priors(run)
