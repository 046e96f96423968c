"""Epochs of MNE-Python as a dataset of epochs, channels and times, and back."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.dataset import SIGNAL, Indexer, Region, read_region, sampling_frequency
from penstock.io.mne import BATCH_BYTES
from penstock.io.mne.info import info_of, si_divisors
from penstock.io.mne.text import as_text, from_text
from penstock.memory.buffers import new_array

if TYPE_CHECKING:
    import mne
    import xarray as xr

EPOCHS = "mne_epochs"
"""Attribute that holds what is said of all epochs: event names, baseline, which were dropped."""


@dataclass(eq=False)
class EpochsRegion:
    """Reads regions of epochs: ``read(epochs, channels, times)``."""

    epochs: Any
    scale: np.ndarray
    dtype: np.dtype
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __getstate__(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "scale": self.scale, "dtype": self.dtype}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, lock=threading.Lock())

    def __call__(self, epochs: Indexer, channels: Indexer, times: Indexer) -> np.ndarray:
        """Values of a region in the units of the dataset, as a new array."""
        which = np.arange(len(self.epochs))[epochs]
        picks = np.arange(len(self.scale))[channels]
        size = len(self.epochs.times)
        count = len(np.arange(size)[times])
        out = new_array((len(which), len(picks), count), self.dtype)
        step = max(1, BATCH_BYTES // (8 * max(1, len(self.scale)) * size))
        for at in range(0, len(which), step):
            batch = which[at : at + step]
            with self.lock:
                values = self.epochs.get_data(picks, item=batch, copy=False, verbose="error")
            np.multiply(
                values[..., times],
                self.scale[picks, np.newaxis],
                out=out[at : at + step],
                casting="same_kind",
            )
        return out


def describe_epochs(ds: xr.Dataset, epochs: mne.BaseEpochs) -> xr.Dataset:
    """The dataset with what is said of every epoch, and of all of them."""
    names = {code: name for name, code in epochs.event_id.items()}
    coords: dict[str, Any] = {
        "epoch": np.asarray(epochs.selection),
        "epoch_label": ("epoch", np.array([names[code] for code in epochs.events[:, 2]], str)),
        "epoch_code": ("epoch", epochs.events[:, 2].astype(np.int64)),
        "epoch_sample": ("epoch", epochs.events[:, 0].astype(np.int64)),
        "epoch_before": ("epoch", epochs.events[:, 1].astype(np.int64)),
    }
    kinds: dict[str, str] = {}
    if epochs.metadata is not None:
        for column in epochs.metadata.columns:
            values = epochs.metadata[column]
            kinds[str(column)] = str(values.dtype)
            plain = values.to_numpy()
            if plain.dtype.kind not in "biuf":
                plain = np.array([str(value) for value in values], dtype=str)
            coords[f"metadata_{column}"] = ("epoch", plain)
    content: dict[str, Any] = {
        "event_id": {name: int(code) for name, code in epochs.event_id.items()},
        "baseline": epochs.baseline,
        "drop_log": epochs.drop_log,
        "metadata": kinds,
        "raw_rate": getattr(epochs, "_raw_sfreq", None),
    }
    annotations = getattr(epochs, "annotations", None)
    if annotations is not None and len(annotations):
        content["annotations"] = {
            "onset": annotations.onset,
            "duration": annotations.duration,
            "description": [str(text) for text in annotations.description],
            "orig_time": annotations.orig_time,
            "ch_names": [list(map(str, names)) for names in annotations.ch_names],
        }
    ds = ds.assign_coords(coords)
    ds.attrs[EPOCHS] = as_text(content)
    return ds


def epochs_of(ds: xr.Dataset, notes: list[str]) -> mne.EpochsArray:
    """Epochs in memory for a dataset of epochs, channels and times."""
    import mne
    import pandas as pd

    ds = ds.transpose("epoch", "channel", "time", ...)
    n_epochs = ds.sizes["epoch"]
    content = from_text(str(ds.attrs.get(EPOCHS, "{}")))

    def column(name: str, default: Any) -> np.ndarray:
        values = ds[name].values if name in ds.variables else default
        return np.broadcast_to(np.asarray(values), n_epochs)

    rate = sampling_frequency(ds)
    codes = column("epoch_code", 1).astype(np.int64)
    apart = np.arange(n_epochs) * ds.sizes["time"]
    events = np.stack(
        [column("epoch_sample", apart), column("epoch_before", 0), codes], axis=1
    ).astype(np.int64)
    labels = column("epoch_label", codes.astype(str)).astype(str)
    event_id = {str(name): int(code) for name, code in zip(labels, codes, strict=True)}
    for name, code in content.get("event_id", {}).items():
        event_id.setdefault(name, code)
    metadata = None
    columns = [str(name) for name in ds.coords if str(name).startswith("metadata_")]
    if columns:
        kinds = content.get("metadata", {})
        # (stores do not keep the order of variables)
        columns.sort(key=[*(f"metadata_{name}" for name in kinds), *columns].index)
        metadata = pd.DataFrame({c.removeprefix("metadata_"): ds[c].values for c in columns})
        for name, kind in kinds.items():
            if name in metadata and str(metadata[name].dtype) != kind and kind != "object":
                try:
                    metadata[name] = metadata[name].astype(kind)
                except (TypeError, ValueError):
                    notes.append(f"the column {name!r} of the metadata is kept as text")
    data = np.empty((n_epochs, ds.sizes["channel"], ds.sizes["time"]))
    divisors = si_divisors(ds)[:, np.newaxis]
    whole = {str(dim): slice(0, size) for dim, size in ds[SIGNAL].sizes.items()}
    step = max(1, BATCH_BYTES // max(1, data[0].nbytes))
    for at in range(0, n_epochs, step):
        region: Region = {**whole, "epoch": slice(at, min(at + step, n_epochs))}
        np.divide(read_region(ds, region), divisors, out=data[at : at + step])
    epochs = mne.EpochsArray(
        data,
        info_of(ds, notes),
        events,
        tmin=float(ds["time"][0]),
        proj=False,
        event_id=event_id,
        on_missing="ignore",
        metadata=metadata,
        selection=column("epoch", np.arange(n_epochs)) if "epoch" in ds.coords else None,
        drop_log=_drop_log(content, ds),
        raw_sfreq=content.get("raw_rate") or rate,
        verbose="error",
    )
    if content.get("baseline") is not None:
        epochs.baseline = tuple(content["baseline"])
    told = content.get("annotations")
    if told:
        annotations = mne.Annotations(
            told["onset"], told["duration"], told["description"], told["orig_time"],
            ch_names=told["ch_names"],
        )  # fmt: skip
        epochs.set_annotations(annotations, on_missing="ignore", verbose="error")
    return epochs


def _drop_log(content: dict[str, Any], ds: xr.Dataset) -> Any:
    """Why epochs are missing, with those left out since."""
    log = content.get("drop_log")
    if log is None or "epoch" not in ds.coords:
        return None
    kept = {int(number) for number in ds["epoch"].values}
    return tuple(
        tuple(why) if why or number in kept else ("SELECTED",) for number, why in enumerate(log)
    )
