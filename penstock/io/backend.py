"""``xr.open_dataset("recording.edf", engine="penstock")``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import xarray as xr
from xarray.backends import BackendEntrypoint

from penstock.io.registry import open_dataset


class PenstockBackend(BackendEntrypoint):
    """Opens whatever `penstock.open_dataset` opens, for `xarray.open_dataset`.

    Without ``engine="penstock"`` xarray chooses it for ``.edf``, ``.bdf``, ``.fif``, ``.vhdr`` and
    ``.set`` only, which no other backend reads.
    """

    description = "Recordings (EDF, BDF, FIF, BrainVision, EEGLAB, ...), read by region"
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        "filename_or_obj",
        "drop_variables",
        "reader",
        "dtype",
        "channel_types",
        "rate",
        "bads",
        "sidecars",
        "dataset",
        "dims",
        "options",
    )
    guessed: ClassVar[tuple[str, ...]] = (".edf", ".bdf", ".fif", ".vhdr", ".set")

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        reader: str | None = None,
        dtype: Any = None,
        channel_types: dict[str, str] | None = None,
        rate: float | None = None,
        bads: Sequence[str] | None = None,
        sidecars: bool = True,
        dataset: str | None = None,
        dims: str | Sequence[str] | None = None,
        options: dict[str, Any] | None = None,
    ) -> xr.Dataset:
        """Open a recording as `penstock.open_dataset` does.

        Parameters
        ----------
        filename_or_obj : path-like
            The recording.
        drop_variables : str or iterable of str, optional
            Variables to leave out.
        reader : str, optional
            ``engine`` of `penstock.open_dataset`: which of Penstock's readers to use.
        dtype, channel_types, rate, bads, sidecars
            As for `penstock.open_dataset`.
        dataset : str, optional
            Which dataset of an HDF5 file, or which array of a NumPy archive.
        dims : str or sequence of str, optional
            Names for the dims of the signal in an HDF5 or NumPy file, in their order, also as one
            text (``"y,x,frequency"``).
        options : dict, optional
            Further options of the reader.

        Returns
        -------
        xarray.Dataset
            The recording; samples are read when asked for.
        """
        if not isinstance(filename_or_obj, str | os.PathLike):
            raise ValueError(
                f"penstock reads files by region and needs a path, got "
                f"{type(filename_or_obj).__name__}: save the data to a file first"
            )
        chosen = {"dataset": dataset, "dims": dims}
        given = {name: value for name, value in chosen.items() if value is not None}
        ds = open_dataset(
            filename_or_obj,
            engine=reader,
            dtype=dtype,
            channel_types=channel_types,
            rate=rate,
            bads=bads,
            sidecars=sidecars,
            **{**(options or {}), **given},
        )
        if drop_variables is None:
            return ds
        names = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables)
        return ds.drop_vars(names, errors="ignore")

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether the name ends like a recording that xarray may open without being told."""
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        return os.fspath(filename_or_obj).lower().endswith(self.guessed)
