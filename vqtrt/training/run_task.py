"""Training a task in the folder of its run: tokenizers and priors, of images and of audio."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from vqtrt.config.parts import TrainConfig
from vqtrt.data.audio.folder import AudioSource
from vqtrt.data.images.source import ImageSource
from vqtrt.training.loop import Task, Trainer, Watcher, accelerator_for
from vqtrt.training.run import open_folder, require_new
from vqtrt.training.skipped import Skipped, data_notes


class FilesTask(Task, Protocol):
    """A task whose data are files."""

    config: Any
    skipped: Skipped

    @property
    def data(self) -> ImageSource | AudioSource:
        """What the files are read from."""


T = TypeVar("T", bound=FilesTask)


def train_files(
    make: Callable[[], T], train: TrainConfig, path: Path, watcher: Watcher, *, resume: bool
) -> T:
    """Train what `make` gives, which is called once the seed is set; says what was skipped.

    Raises `VqtrtError` if `path` holds something else, before the data are read.
    """
    torch.manual_seed(train.seed)
    main = accelerator_for(train).is_main_process
    if main and not resume:
        require_new(path, "--out")
    task = make()

    def begin() -> None:
        task.skipped.begin(path, watcher.noted)
        if main:
            for text in data_notes(task.data):
                watcher.noted(text)

    run_task(task, task.config, path, watcher, "reconstructions", resume=resume, begin=begin)
    summary = task.skipped.summary()
    if main and summary:
        watcher.noted(summary)
    return task


def run_task(
    task: Task,
    config: Any,
    path: Path,
    watcher: Watcher,
    pictures: str,
    *,
    resume: bool,
    option: str = "--out",
    begin: Callable[[], None] = lambda: None,
) -> None:
    """Train a task into the folder `path`, with its pictures in the folder `pictures`.

    `begin` is called when training is about to begin; `option` of the command line would name
    another folder. Raises `VqtrtError` if another process trains there, or the run was begun on
    other data.
    """
    accelerator = accelerator_for(config.train)
    with open_folder(
        path, config, accelerator, task.record, resume=resume, option=option
    ) as put_settings:
        trainer = Trainer(task, path, config.train, accelerator, watcher, pictures)
        start = trainer.start(resume=resume)
        put_settings()
        begin()
        trainer.train(start)
