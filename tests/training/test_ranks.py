"""Two processes over gloo; most are forked, so that nothing is imported again."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
from accelerate.state import AcceleratorState

from vqtrt.config.location import find_model
from vqtrt.training import prior_start
from vqtrt.training.prior_start import plan_prior
from vqtrt.training.ranks import Ranks


def run(work: Callable[[int, Path], None], folder: Path) -> list[int | None]:
    """Do some work in two processes, whose group waits a second; their exit statuses."""

    def process(rank: int) -> None:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",  # asked for, and not used
            "MASTER_PORT": "0",
            "ACCELERATE_USE_CPU": "true",
        }
        AcceleratorState._reset_state(reset_partial_state=True)
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder / 'store'}",
            rank=rank,
            world_size=2,
            timeout=timedelta(seconds=1),
        )
        work(rank, folder)
        os._exit(0)  # without what the tests' own process does at its end

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=process, args=(rank,)) for rank in (0, 1)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(60)
        each.kill()
    return [each.exitcode for each in processes]


def agree(rank: int, folder: Path) -> None:
    ranks = Ranks()
    if rank == 0:
        time.sleep(2.5)
    ranks.wait()
    assert ranks.any(rank == 1)
    assert not ranks.any(False)


def test_the_others_are_waited_for_beyond_the_groups_limit(tmp_path: Path) -> None:
    assert run(agree, tmp_path) == [0, 0]


def test_alone_there_is_nobody_to_wait_for() -> None:
    ranks = Ranks()
    ranks.wait()
    assert ranks.any(True)
    assert not ranks.any(False)


def test_an_encode_may_take_longer_than_the_groups_limit(tiny_run, tmp_path, monkeypatch):
    encode = prior_start.image_encode.encode_source
    calls = tmp_path / "calls"

    def slowly(*arguments, **options):
        calls.open("a").write(f"{os.environ['RANK']}\n")
        time.sleep(2.5)
        return encode(*arguments, **options)

    def plan(rank: int, folder: Path) -> None:
        settings = ["data.path=shapes:20"]
        planned = plan_prior(
            find_model(folder / "run"), None, "slow", settings, workers=1, resume=False
        )
        assert len(planned.codes.files) == 20

    shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    monkeypatch.setattr(prior_start.image_encode, "encode_source", slowly)
    assert run(plan, tmp_path) == [0, 0]
    assert calls.read_text() == "0\n"


SETTINGS = {
    "data.path": "shapes:100",
    "data.holdout": 16,
    "model.hidden": 8,
    "model.residual_blocks": 1,
    "model.residual_hidden": 8,
    "train.batch_size": 8,
    "train.steps": 100,
    "train.log_every": 1,
    "train.evaluate_every": 100,
    "train.checkpoint_every": 100,
}


def begin(out: Path, *arguments: str) -> subprocess.Popen[str]:
    """`vqtrt train` in two processes, as docs/train.md shows it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.Popen(
        [*command, "-m", "vqtrt", "train", *arguments, "--out", str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_sigterm_stops_both_after_the_same_step(tmp_path: Path) -> None:
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    whole = begin(tmp_path / "whole", "shapes", *settings)
    _, said = whole.communicate(timeout=120)
    assert whole.returncode == 0, said
    out = tmp_path / "run"
    stopped = begin(out, "shapes", *settings)
    end = time.monotonic() + 120
    while not (out / "metrics.jsonl").is_file() and time.monotonic() < end:
        time.sleep(0.01)
    stopped.send_signal(signal.SIGTERM)
    _, said = stopped.communicate(timeout=120)
    assert stopped.returncode != 0
    # One of them speaks, and neither has died of the other's end.
    assert said.count("interrupted by SIGTERM; step ") == 1, said
    assert "the same command with --resume goes on" in said
    assert len(list((out / "checkpoints").iterdir())) == 1
    resumed = begin(out, "--resume")
    _, said = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, said
    weights = (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (out / "model.safetensors").read_bytes() == weights
