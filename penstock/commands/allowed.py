"""Modules that a pipeline file may name (``--allow``), also those that lie beside it."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.local_paths import check_local
from penstock.messages import shown
from penstock.plain_values import read_text

if TYPE_CHECKING:
    from penstock.pipeline import Pipeline

_LOOKED_AT = 100
"""So many modules beside a pipeline file are looked at for a processor that it names."""


def pipeline_of(path: Path, allow: Iterable[str] | None) -> Pipeline:
    """The pipeline of a file, which may name processors and functions of allowed modules.

    Raises
    ------
    OSError, ValueError, TypeError
        What is wrong with it; of an unknown processor, which module beside the file has it.
    """
    from penstock.pipeline import Pipeline
    from penstock.pipeline_files import UnknownProcessor

    check_local(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such pipeline file")
    modules = list(allow or ())
    find_beside(path, modules)
    try:
        return Pipeline.from_yaml(path, allow=modules)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file, so not a pipeline in YAML") from None
    except UnknownProcessor as error:
        text = str(error)
        cause = error.__cause__
        name = cause.name if isinstance(cause, UnknownProcessor) else ""
        for module in _with_class(path.parent, name):
            before, named, _ = text.partition(f"unknown processor {shown(name)}")
            text = f"{before}{named}: {module}.py beside the file has one: add --allow {module}"
        raise ValueError(text) from None


def find_beside(path: Path, modules: Iterable[str]) -> None:
    """Let Python find modules that lie in the folder of a file, after all other places.

    Nothing changes where none of them lies there, or all are found already.
    """
    folder = path.absolute().parent
    tops = {name.partition(".")[0] for name in modules}
    for name in filter(str.isidentifier, tops):
        beside = (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()
        if beside and name not in sys.modules and importlib.util.find_spec(name) is None:
            # (processes that are started find what is found here)
            sys.path.append(str(folder))
            return


def _with_class(folder: Path, name: str) -> Iterator[str]:
    """Modules in a folder whose text defines a class of that name; none of them is imported."""
    short = name.rpartition(".")[2]
    if not short.isidentifier():
        return
    defines = re.compile(rf"^class {short}\b", re.MULTILINE)
    for module in itertools.islice(sorted(folder.glob("*.py")), _LOOKED_AT):
        if not module.stem.isidentifier():
            continue
        try:
            text = read_text(module)
        except (OSError, ValueError):
            continue
        if defines.search(text):
            yield module.stem
            return
