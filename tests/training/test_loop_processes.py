import os
import subprocess
import sys
from pathlib import Path

import pytest
from loop_runs import assert_equal, figures, weights, with_train
from safetensors.torch import load_file

from vqtrt.training.images import train

_PROCESS = """
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from vqtrt.config.images import load_config
from vqtrt.errors import VqtrtError
from vqtrt.training import images, loop

folder, kind = Path(sys.argv[1]), sys.argv[2]


class Quiet:
    def started(self, step, steps): ...
    def advanced(self, step): ...
    def reported(self, step, figures): ...
    def evaluated(self, step, figures, picture): ...

    def noted(self, text): ...


kept = []
make = loop.Trainer.__init__


def remember(self, *args):
    make(self, *args)
    kept.append(self)


loop.Trainer.__init__ = remember
config = load_config(folder / "config.yaml")
try:
    images.train(config, folder / "run", Quiet(), resume=kind == "resume")
except VqtrtError as error:
    print(f"VqtrtError: {error}", file=sys.stderr)
    sys.exit(3)
state = {name: value.contiguous() for name, value in kept[0].task.module.state_dict().items()}
save_file(state, folder / f"rank{dist.get_rank()}.safetensors")
dist.destroy_process_group()
"""


def torchrun(folder, *arguments):
    """Run `_PROCESS` in two processes on the CPU."""
    script = folder / "process.py"
    script.write_text(_PROCESS)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path.cwd()),
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, script, folder, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ema", "gradient", "cosine", "simvq"])
def test_two_processes_hold_the_same_codebook(tmp_path, make_config, make_log, kind):
    config = make_config(kind=kind, restart_below=0.7, decay=0.8)
    config = with_train(config, steps=8, log_every=4, evaluate_every=4, checkpoint_every=4)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    done = torchrun(tmp_path, "new")
    assert done.returncode == 0, done.stderr
    ranks = [load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1)]
    assert_equal(*ranks)
    assert_equal(ranks[0], weights(tmp_path / "run"))
    lines = figures(tmp_path / "run")
    assert [line["step"] for line in lines] == [4, 4, 8, 8]
    # One batch, shared out: the first figures are about those of a single process.
    train(config, tmp_path / "single", make_log())
    assert lines[0]["loss"] == pytest.approx(figures(tmp_path / "single")[0]["loss"], rel=0.3)

    longer = with_train(config, steps=12)
    (tmp_path / "config.yaml").write_text(longer.to_yaml())
    done = torchrun(tmp_path, "resume")
    assert done.returncode == 0, done.stderr
    ranks = [load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1)]
    assert_equal(*ranks)
    assert [line["step"] for line in figures(tmp_path / "run")] == [4, 4, 8, 8, 12, 12]


@pytest.mark.slow
def test_two_processes_without_restarts_learn_what_one_does(tmp_path, make_config, make_log):
    """Sums over the processes and the mean of their gradients: the same step, but for rounding."""
    config = make_config(restart_below=0)
    config = with_train(config, steps=4, log_every=1)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    done = torchrun(tmp_path, "new")
    assert done.returncode == 0, done.stderr
    train(config, tmp_path / "single", make_log())
    both = zip(figures(tmp_path / "run"), figures(tmp_path / "single"), strict=True)
    for two, one in both:
        if "loss" in one:
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_out(tmp_path, make_config):
    config = with_train(make_config(), batch_size=7)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    done = torchrun(tmp_path, "new")
    assert done.returncode != 0
    assert "VqtrtError: train.batch_size 7 cannot be divided among 2 processes" in done.stderr
    assert not (tmp_path / "run").exists()
