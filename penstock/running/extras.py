"""What a run needs that is not installed: told before anything is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from penstock.formats import Format
from penstock.installed import missing_extra
from penstock.io.registry import missing_modules
from penstock.processor import Processor


def check_extras(
    processors: Iterable[Processor],
    format: Format,
    paths: Iterable[Path | None],
    options: Mapping[str, Any],
) -> None:
    """See whether steps, files and results of a run need an extra that is not installed.

    Raises
    ------
    ImportError
        With everything that is missing, and how it is installed. Where only some of the files
        cannot be read, the others are done: nothing is raised.
    """
    missing: dict[str, tuple[str, str]] = {}
    of_steps = [(type(one).__name__, (*one.requires, *one.modules)) for one in processors]
    for what, modules in (*of_steps, (f"writing {format.name}", format.modules)):
        for module in modules:
            extra = missing_extra(module)
            if extra:
                missing.setdefault(module.partition(".")[0], (what, extra))
    listed = list(paths)
    files = [path for path in listed if path is not None]
    if files and len(files) == len(listed) and "engine" not in options:
        for module, extra in missing_modules(files).items():
            missing.setdefault(module, (f"reading {files[0].name}", extra))
    if missing:
        needs = ", ".join(f"{what} needs {module}" for module, (what, _) in missing.items())
        extras = ",".join(sorted({extra for _, extra in missing.values()}))
        raise ImportError(f'{needs}: pip install "penstock[{extras}]"')
