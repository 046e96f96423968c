"""How the site is built: ``make docs``."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path

import penstock

HERE = Path(__file__).parent
os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")


project = "Penstock"
author = "The Penstock developers"
version = release = penstock.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.extlinks",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["colon_fence", "deflist", "html_image"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"  # (types stand in the docstrings)
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

extlinks = {"doi": ("https://doi.org/%s", "doi:%s")}
suppress_warnings = ["ref.python"]  # (words of types that are attributes of several classes)

html_theme = "pydata_sphinx_theme"
html_title = "Penstock"
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_show_sourcelink = False

REFERENCE = {
    "penstock": "Datasets, pipelines, runs",
    "penstock.eeg": "Recordings",
    "penstock.eeg.simulate": "Simulated recordings",
    "penstock.spectra": "Positions",
    "penstock.fmri": "Volumes",
    "penstock.fmri.simulate": "Simulated volumes",
    "penstock.io": "Files",
    "penstock.testing": "Conformance tests",
}
"""Modules whose public names are described, and what the page of each is called."""


def write_reference() -> None:
    """A page for every module of the reference, with all of its public names."""
    for module, title in REFERENCE.items():
        names = [name for name in importlib.import_module(module).__all__ if name[0] != "_"]
        listed = "\n".join(f"   {name}" for name in names)
        HERE.joinpath("api", f"{module}.rst").write_text(
            f"{title}\n{'=' * len(title)}\n\n.. currentmodule:: {module}\n\n"
            f".. autosummary::\n   :toctree: generated\n\n{listed}\n"
        )


def copy_notebooks() -> None:
    """The notebooks, which lie beside the documentation, into it."""
    shutil.rmtree(HERE / "notebooks", ignore_errors=True)
    shutil.copytree(HERE.parent / "notebooks", HERE / "notebooks")


def skip(app: object, what: str, name: str, obj: object, skipped: bool, options: object) -> bool:
    """Leave out what classes have from scikit-learn."""
    return skipped or (getattr(obj, "__module__", None) or "").startswith("sklearn")


def setup(app: object) -> None:
    """What Sphinx calls with itself."""
    app.connect("autodoc-skip-member", skip)  # type: ignore[attr-defined]


write_reference()
copy_notebooks()
