"""Where results of a process are kept: each with the data and parameters that it was made of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import xarray as xr

from penstock.dataset import SIGNAL
from penstock.pipeline import Pipeline
from penstock.running.keys import content_token, dataset_identity, key_of
from penstock.running.resuming.unfinished import begun_key
from penstock.storage.store import add_provenance, stored_provenance

MOST_BYTES = 4 * 1024**3
"""Largest dataset whose values are read once more, to know it again in a file that has changed."""


@dataclass(frozen=True)
class ResultsHome:
    """A folder of results, and the place in it of those of one pipeline on one dataset.

    Results of the same name lie side by side: ``scan.zarr``, ``scan_001.zarr``, ...
    """

    folder: Path
    stem: str
    dataset: xr.Dataset
    pipeline: Pipeline

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What tells the dataset from others, without reading a file."""
        return dataset_identity(self.dataset)

    @cached_property
    def key(self) -> str:
        """What the results are known by."""
        return key_of(self.pipeline.canonical(), self.identity)

    @cached_property
    def content_key(self) -> str | None:
        """What they are known by where the file has changed, but not the values of the dataset.

        Only datasets that are a part of a file have one. All of their values are read.
        """
        part = "source_dataset" in self.dataset.attrs
        if not part or self.dataset[SIGNAL].nbytes > MOST_BYTES:
            return None
        return key_of(self.pipeline.canonical(), {"values": content_token(self.dataset)})

    @property
    def target(self) -> Path:
        """Store of these results, finished or begun; a new one beside the others otherwise."""
        places = self._places()
        for place in places:
            about = stored_provenance(place)
            if (about.get("key") if about is not None else begun_key(place)) == self.key:
                return place
        for place in places:
            known = (stored_provenance(place) or {}).get("content_key")
            if known is not None and known == self.content_key:
                self.adopt(place)
                return place
        number, place = 0, self.folder / f"{self.stem}.zarr"
        while place in places or place.exists():
            number += 1
            place = self.folder / f"{self.stem}_{number:03d}.zarr"
        return place

    def _places(self) -> list[Path]:
        """Stores of this name, finished and begun, in the order of their numbers."""
        known = re.compile(rf"\.?({re.escape(self.stem)}(?:_\d{{3,}})?\.zarr)(?:\.partial)?")
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        names = {match[1] for match in (known.fullmatch(path.name) for path in found) if match}
        return [self.folder / name for name in sorted(names, key=lambda name: (len(name), name))]

    def remember(self, target: Path) -> None:
        """Note of which values results are, should their file be changed elsewhere."""
        if self.content_key is not None:
            add_provenance(target, {"content_key": self.content_key})

    def adopt(self, target: Path, **facts: Any) -> None:
        """Note that results are those of the dataset as its file is now."""
        now = ResultsHome(self.folder, self.stem, self.dataset, self.pipeline)
        add_provenance(target, {"key": now.key, "source": now.identity, **facts})
