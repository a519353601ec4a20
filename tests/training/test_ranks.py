"""Two processes over gloo, forked, so that nothing is imported again."""

import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from accelerate.state import AcceleratorState

from vqtrt.artefacts import find_model
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
    encode = prior_start.encode_source
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
    monkeypatch.setattr(prior_start, "encode_source", slowly)
    assert run(plan, tmp_path) == [0, 0]
    assert calls.read_text() == "0\n"
