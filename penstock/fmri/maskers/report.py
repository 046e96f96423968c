"""What a masker looks like: its regions over an image, its parameters, its columns."""

from __future__ import annotations

import base64
import os
import tempfile
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.fmri.images.images import SpatialImage
from penstock.fmri.maskers.frames import warn_caller
from penstock.fmri.maskers.regions import region_sizes, regions_and_names
from penstock.fmri.maskers.regions import regions_image as regions_image
from penstock.fmri.plots.report_figures import overlay_figure
from penstock.pages import escaped, html_table, page, piece

if TYPE_CHECKING:
    from penstock.fmri.maskers.base import BaseMasker

NAMES_SHOWN = 400


@dataclass(frozen=True, repr=False)
class MaskerReport:
    """A page about a masker: shown in Jupyter, saved as a self-contained HTML file."""

    body: str
    title: str = "Masker"

    def __repr__(self) -> str:
        return f"<MaskerReport of {self.title}: save_as_html(path) or open_in_browser()>"

    def _repr_html_(self) -> str:
        return self.body

    def __str__(self) -> str:
        return self.body

    def save_as_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the page; an existing file is replaced."""
        target = Path(path)
        target.write_text(page(self.title, self.body), encoding="utf-8")
        return target

    def open_in_browser(self) -> Path:
        """Write the page into a temporary file, which stays, and show it in a browser."""
        number, name = tempfile.mkstemp(prefix="penstock-masker-", suffix=".html")
        os.close(number)
        path = self.save_as_html(name)
        webbrowser.open(path.as_uri())
        return path


def masker_report(
    masker: BaseMasker, background: Any, *, title: str | None = None, displayed: Any = "all"
) -> MaskerReport:
    """The page of a fitted masker; see `BaseMasker.generate_report`."""
    heading = title or f"{type(masker).__name__}: {masker.n_elements_} columns"
    regions, names = regions_and_names(masker)
    kind = None if names is None else "maps" if regions.data.ndim == 4 else "labels"
    if names is not None and not (isinstance(displayed, str) and displayed == "all"):
        regions, names = _only(regions, names, _positions(displayed, len(names)))
    drawn = overlay_figure(regions, background, names=names, kind=kind)
    picture = base64.b64encode(drawn).decode()
    defaults = type(masker)().get_params()
    changed = {
        key: value
        for key, value in masker.get_params().items()
        if not (type(value) is type(defaults[key]) and np.array_equal(value, defaults[key]))
    }
    rows = [[key, _short(value)] for key, value in changed.items()]
    columns = [str(one) for one in masker.get_feature_names_out()[:NAMES_SHOWN]]
    more = f", … ({masker.n_elements_})" if masker.n_elements_ > NAMES_SHOWN else ""
    shown = html_table(["parameter", "value"], rows) if rows else ""
    sizes = region_sizes(masker)
    if sizes is None:
        shown += f"<p>{escaped(', '.join(columns) + more)}</p>"
    else:
        told = [[name, str(n), f"{volume:.6g} mm³"] for name, n, volume in sizes[:NAMES_SHOWN]]
        shown += html_table(["region", "voxels", "volume"], told)
        shown += f"<p>{escaped(more.removeprefix(', '))}</p>" if more else ""
    return MaskerReport(
        piece(
            f"<h3>{escaped(heading)}</h3>"
            f"<img alt='regions' src='data:image/png;base64,{picture}'>{shown}"
        ),
        heading,
    )


def _positions(displayed: Any, n_regions: int) -> list[int]:
    """Positions of the regions to draw.

    Raises
    ------
    TypeError
        If they are neither a number nor a list of numbers.
    """
    several = isinstance(displayed, list | tuple | np.ndarray)
    given = list(displayed) if several else [displayed]
    if any(isinstance(one, bool) or not isinstance(one, int | np.integer) for one in given):
        raise TypeError(
            "what is displayed must be 'all', a number of regions, or a list of positions, got "
            f"{displayed!r}"
        )
    wanted = [int(one) for one in given] if several else list(range(int(displayed)))
    there = [one for one in wanted if 0 <= one < n_regions]
    if len(there) < len(wanted):
        warn_caller(
            f"{len(wanted) - len(there)} of the regions to display are not there: the masker has "
            f"{n_regions}"
        )
    if not there:
        raise ValueError(f"there is nothing to display: the masker has {n_regions} regions")
    return there


def _only(
    regions: SpatialImage, names: dict[int, str], positions: list[int]
) -> tuple[SpatialImage, dict[int, str]]:
    """The regions at some positions."""
    if regions.data.ndim == 4:
        kept = SpatialImage(regions.data[..., positions], regions.affine)
        return kept, {i: names[at] for i, at in enumerate(positions)}
    numbers = list(names)
    wanted = {numbers[at]: names[numbers[at]] for at in positions}
    shown = np.where(np.isin(regions.data, list(wanted)), regions.data, 0)
    return SpatialImage(shown, regions.affine), wanted


def _short(value: Any, most: int = 200) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= most else text[:most] + "…"
