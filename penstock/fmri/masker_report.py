"""What a masker looks like: its regions over an image, its parameters, its columns."""

from __future__ import annotations

import base64
import html
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.fmri.images import SpatialImage

if TYPE_CHECKING:
    from penstock.fmri.base_masker import BaseMasker

NAMES_SHOWN = 400


@dataclass(frozen=True)
class MaskerReport:
    """A page about a masker: shown in Jupyter, saved as a self-contained HTML file."""

    body: str

    def _repr_html_(self) -> str:
        return self.body

    def __str__(self) -> str:
        return self.body

    def save_as_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the page; an existing file is replaced."""
        target = Path(path)
        style = "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:960px}"
        target.write_text(
            "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
            f"<title>Masker</title><style>{style}</style></head><body>{self.body}</body></html>"
        )
        return target


def masker_report(masker: BaseMasker, background: Any) -> MaskerReport:
    """The page of a fitted masker; see `BaseMasker.generate_report`."""
    from penstock.fmri.figures import overlay_figure

    name = type(masker).__name__
    picture = base64.b64encode(overlay_figure(regions_image(masker), background)).decode()
    defaults = type(masker)().get_params()
    changed = {
        key: value
        for key, value in masker.get_params().items()
        if not (type(value) is type(defaults[key]) and np.array_equal(value, defaults[key]))
    }
    rows = "".join(
        f"<tr><td style='padding-right:1em'>{html.escape(key)}</td>"
        f"<td>{html.escape(_short(value))}</td></tr>"
        for key, value in changed.items()
    )
    names = [str(one) for one in masker.get_feature_names_out()[:NAMES_SHOWN]]
    more = f", … ({masker.n_elements_})" if masker.n_elements_ > NAMES_SHOWN else ""
    return MaskerReport(
        f"<div><h3>{name}: {masker.n_elements_} columns</h3>"
        f"<img style='max-width:100%' alt='regions' src='data:image/png;base64,{picture}'>"
        f"<table>{rows}</table><p>{html.escape(', '.join(names) + more)}</p></div>"
    )


def regions_image(masker: BaseMasker) -> SpatialImage:
    """Where the regions are: maps as they are, otherwise each column's number in its voxels."""
    grid = masker.grid
    extractor: Any = masker.processors(grid)[-1]
    if getattr(masker, "_maps", None) is not None:
        return masker._maps  # type: ignore[attr-defined, no-any-return]
    numbers = (
        np.ones(masker.n_elements_) if masker.keeps_type else 1 + np.arange(masker.n_elements_)
    )
    painted = extractor.paint(numbers[np.newaxis].astype(np.float64), grid)[0]
    return SpatialImage(np.rint(painted).astype(np.int32).transpose(2, 1, 0), grid.matrix)


def _short(value: Any, most: int = 200) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= most else text[:most] + "…"
