"""`vqtrt doctor`: does what is installed here work, and what is missing? One answer, to be pasted.

It tells nothing of the machine that a stranger should not read: no paths outside of the bundle, and
of the environment three variables of CUDA's.
"""

import tempfile
from pathlib import Path

from vqtrt.doctor.cuda import examine_cuda
from vqtrt.doctor.engines import examine_engines
from vqtrt.doctor.machine import examine_machine
from vqtrt.doctor.model import examine_model
from vqtrt.doctor.packages import examine_packages
from vqtrt.doctor.report import Report


def examine(model: Path | None = None, *, device: int = 0) -> Report:
    """Look at machine, packages, CUDA and engines, and at a run or bundle if one is given.

    About a minute at most, less without a GPU. Never raises for what it finds.
    """
    report = Report()
    gpus = examine_machine(report)
    with report.checking("packages"):
        examine_packages(report, gpus)
    if gpus:
        with report.checking("CUDA"):
            examine_cuda(report, device)
    with report.checking("engines"), tempfile.TemporaryDirectory(prefix="vqtrt-doctor-") as folder:
        examine_engines(report, Path(folder), gpus, device)
    if model is not None:
        report.hide(model, "MODEL")
        with report.checking("model"):
            examine_model(report, model, gpus, device)
    return report
