"""One attempt at a task, wherever it runs: what goes wrong in it comes back as a `Failure`.

On other processes an attempt leaves a mark while it lasts. A task whose mark is found was begun by
a process that ended during it: Dask would give it to one worker after the other, and if it is the
task that ends them, until none is left. So it comes back instead, and the run decides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from penstock.memory.peaks import process_name
from penstock.running.failures import Failure, of_error
from penstock.running.job import Job, Opened
from penstock.running.registrations import take_over

MARKS = ".penstock-begun"
"""Folder of marks, beside the results."""


def attempt(task: Callable[..., Any], about: Job | Opened, *rest: Any, label: str) -> Any:
    """Do ``task(about, *rest)`` once.

    Returns
    -------
    object
        What the task returns, or a `Failure`: whatever is raised, `SystemExit` of a kernel
        included, is of one recording alone.
    """
    job = about if isinstance(about, Job) else about.job
    try:
        take_over(job.registered)
        with _marked(job, label) as earlier:
            if earlier:
                return Failure(f"it was begun by {earlier}, which ended", begun_before=True)
            return task(about, *rest)
    except BaseException as error:
        return of_error(error)


def begun_by(job: Job, label: str) -> str:
    """The process that began a task and did not end it; nothing where none did."""
    if job.marks is None:
        return ""
    with contextlib.suppress(FileNotFoundError):
        return _mark(job.marks, job, label).read_text() or "another process"
    return ""


def forget_begun(job: Job, label: str) -> None:
    """Let a task be begun again."""
    if job.marks is not None:
        with contextlib.suppress(OSError):
            _mark(job.marks, job, label).unlink()


def _mark(folder: Path, job: Job, label: str) -> Path:
    return folder / f"{job.token}-{label}"


@contextlib.contextmanager
def _marked(job: Job, label: str) -> Iterator[str]:
    """Leave a mark as long as we are here; or give what the one that is there says."""
    mark = None if job.marks is None else _mark(job.marks, job, label)
    earlier = "" if mark is None else _leave(mark)
    try:
        yield earlier
    finally:
        if mark is not None and not earlier:
            with contextlib.suppress(OSError):
                mark.unlink()


def _leave(mark: Path) -> str:
    """Make a mark; what it says where there was one already, nothing otherwise."""
    try:
        with open(mark, "x") as file:
            file.write(process_name())
    except FileExistsError:
        with contextlib.suppress(OSError):
            return mark.read_text() or "another process"
        return "another process"
    except OSError:
        pass  # (no folder, no room: a full disk is told of where results are written)
    return ""
