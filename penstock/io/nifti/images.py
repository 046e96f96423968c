"""Images of nibabel as datasets, and datasets of volumes as images of nibabel."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from penstock.dataset import Indexer, indexer_length, lazy_variable
from penstock.io.arrays.arrays import as_dtype, exact_type
from penstock.io.nifti.header import describe_nifti, header_time, read_header
from penstock.io.nifti.open import chosen_time, image_dataset, stored_dataset
from penstock.io.nifti.stored import ImageHeader, stored_values, volume_dims
from penstock.io.nifti.times import TimeStep
from penstock.messages import warn
from penstock.reading import Reading

PLAIN = ("float32", "float64", "complex64", "complex128")
"""Types in which arrays in memory are used as they are."""
ARRAY_SCRATCH = 1.0
"""Converting a region of an array in memory takes at most a copy of it in its own type."""


def from_nibabel(image: Any, *, dtype: Any = None, t_r: float | None = None) -> xr.Dataset:
    """A dataset over an image of nibabel, as it is in memory; no values are read or copied.

    Values of a file that the image only points to are read from it by region. What has been mended
    in memory counts: affine, header, and values in arrays, those that ``get_fdata()`` keeps
    included.

    Parameters
    ----------
    image : nibabel image
        NIfTI, Analyze, MGH, CIFTI-2, or another one with voxels.
    dtype : {"float32", "float64"}, optional
        Type of the values. Default: the smaller one if it holds all of them exactly.
    t_r : float, optional
        Repetition time [s]. Default: that of the JSON sidecar of the image's file, unless the
        header has been changed since it was loaded; else that of the header.

    Returns
    -------
    xarray.Dataset
        As from `penstock.open_dataset`: ``signal`` (x, y, z, time), ``affine``, and the rest of the
        header in attributes, from which `to_nibabel` makes it again.

    Raises
    ------
    TypeError, ValueError
        If it is no image, or one of colours.

    Examples
    --------
    >>> import nibabel, numpy as np, penstock as ps
    >>> image = nibabel.Nifti1Image(np.zeros((4, 5, 6, 10), "int16"), np.diag([3.0, 3, 3, 1]))
    >>> image.header.set_zooms((3, 3, 3, 2.5))
    >>> image.header.set_xyzt_units("mm", "sec")
    >>> ds = ps.from_nibabel(image)
    >>> float(ds.time[4])
    10.0
    """
    if not hasattr(image, "dataobj") or not hasattr(image, "header"):
        raise TypeError(f"an image of nibabel is needed, got {type(image).__name__}")
    filename = image.get_filename()
    path = os.path.abspath(filename) if filename else ""
    header = _describe(image, path or f"the {type(image).__name__}")
    length = dict(zip(header.dims, header.shape, strict=True)).get("time")
    sidecars = bool(path) and not _time_was_changed(header.time, path)
    time = chosen_time(header.time, length, path or "the image", t_r, sidecars=sidecars)
    for doubt in (*header.doubts, *filter(None, [time.doubt])):
        warn(doubt, stacklevel=3)
    held = held_values(image)
    proxy = image.dataobj
    if held is None and _reads_a_file(proxy):
        stored = _stored(proxy, header)
        return stored_dataset(stored, time, os.path.abspath(proxy.file_like), dtype)
    shape = tuple(header.shape[axis] for axis in header.order[::-1])
    if held is not None:
        values = np.reshape(held, shape)  # (axes of length 1 are left out, as a view)
        axes = tuple(header.order[::-1].index(axis) for axis in range(len(header.dims)))
        variable = array_variable(values.transpose(axes), header.dims, dtype)
        variable.encoding["stored_as"] = values.dtype.name
    else:
        variable = _proxied(proxy, header, dtype)
        variable.encoding["stored_as"] = _proxy_type(proxy).name
    attrs = {**({"source": path} if path else {}), **header.attrs}
    return image_dataset(variable, time, header.affine, header.coords, attrs)


def array_variable(values: np.ndarray, dims: tuple[str, ...], dtype: Any) -> xr.Variable:
    """A variable over an array in memory, in a floating type; converted by region where needed.

    Parameters
    ----------
    values : numpy.ndarray
        Numbers of any type and byte order.
    dims : tuple of str
        Their dims.
    dtype : {"float32", "float64"} or None
        What integers become; None: the smallest type that holds them exactly.

    Raises
    ------
    ValueError
        If they are no numbers.
    """
    if values.dtype.kind not in "biufc":
        raise ValueError(f"an image of {values.dtype} holds no numbers: colours have no signals")
    if values.dtype.isnative and values.dtype.name in PLAIN:
        return xr.Variable(dims, values)
    wanted = _floating(values.dtype, dtype)
    reading = Reading(ARRAY_SCRATCH, interleaved=values.flags.f_contiguous)
    read = _Converted(values, wanted)
    return lazy_variable(dims, read, values.shape, wanted, reading=reading)


# ---------------------------------------------------------------------- what an image says


@dataclass(frozen=True)
class _Described:
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    """Along the dims."""
    order: tuple[int, ...]
    """Dims in the order of a file: the last one varies fastest."""
    affine: Any
    time: TimeStep
    coords: dict[str, Any]
    attrs: dict[str, Any]
    doubts: tuple[str, ...] = ()


def _describe(image: Any, what: str) -> _Described:
    import nibabel

    from penstock.io.arrays.arrays import COMPONENT

    header = image.header
    if isinstance(image, nibabel.Cifti2Image):
        return _describe_cifti(image, what)
    affine = getattr(image, "affine", None)
    if affine is None:
        raise ValueError(f"{what} has no affine: it does not say where its voxels lie")
    attrs: dict[str, Any] = {"format": _format(image), "spatial_units": "mm"}
    doubts: tuple[str, ...] = ()
    last = "time"
    if isinstance(header, nibabel.Nifti1Header):
        told = describe_nifti(header, affine, what, attrs["format"])
        attrs, time, doubts = told.attrs, told.time, told.doubts
        last = COMPONENT if "vector" in str(header.get_intent()[0]) else "time"
    elif isinstance(image, nibabel.MGHImage):
        time = header_time(header["tr"], 16, what)  # (in milliseconds)
    else:
        zooms: Any = header.get_zooms() if hasattr(header, "get_zooms") else ()
        step = np.float32(zooms[3]) if len(zooms) > 3 else np.float32(0)
        time = header_time(step, 0, what)
    if type(image).__name__.startswith("Minc") and len(image.shape) > 3:
        raise ValueError(f"{what} has its time first, as MINC has: convert it to NIfTI (mnc2nii)")
    shape, dims = volume_dims(tuple(map(int, image.shape)), what, last)
    order = tuple(range(len(dims)))[::-1]
    return _Described(dims, shape, order, affine, time, {}, attrs, doubts)


def _describe_cifti(image: Any, what: str) -> _Described:
    from penstock.io.nifti.cifti import describe_axes

    contents = describe_axes([image.header.get_axis(i) for i in range(image.ndim)])
    dims, order = contents.layout(what, tuple(image.shape))
    sizes = dict(zip(contents.names, image.shape, strict=True))
    intent = str(image.nifti_header.get_intent()[0])
    attrs = {"format": "CIFTI-2", "intent": intent, **contents.attrs}
    shape = tuple(int(sizes[dim]) for dim in dims)
    return _Described(dims, shape, order, contents.affine, contents.time, contents.coords, attrs)


def _format(image: Any) -> str:
    import nibabel

    kinds = (
        (nibabel.Nifti2Image, "NIfTI-2"),
        (nibabel.Nifti2Pair, "NIfTI-2 pair"),
        (nibabel.Nifti1Image, "NIfTI-1"),
        (nibabel.Nifti1Pair, "NIfTI-1 pair"),
        (nibabel.MGHImage, "MGH"),
        (nibabel.AnalyzeImage, "Analyze 7.5"),
    )
    return next((name for kind, name in kinds if isinstance(image, kind)), type(image).__name__)


def _time_was_changed(time: TimeStep, path: str) -> bool:
    """Whether a header in memory has another repetition time than that in the file."""
    try:
        there = read_header(path).time.seconds
    except (OSError, ValueError):
        return True
    return there != time.seconds


# ---------------------------------------------------------------------- its values


def held_values(image: Any) -> np.ndarray | None:
    """The values of an image that are in memory; None where they are only in a file.

    What was read of the file and kept may have been changed since, as users of ``get_fdata()`` (and
    of ``nilearn.image.get_data``) do who mend an image.
    """
    for name in ("_data_cache", "_fdata_cache"):
        kept = getattr(image, name, None)
        if isinstance(kept, np.ndarray) and kept.shape == tuple(image.shape):
            proxy = image.dataobj
            stored = np.dtype(getattr(proxy, "dtype", kept.dtype))
            if (getattr(proxy, "slope", 1), getattr(proxy, "inter", 0)) != (1, 0):
                stored = np.result_type(stored, np.float64)
            if stored.kind != "c" and np.can_cast(exact_type(stored), exact_type(kept.dtype)):
                return kept
    return image.dataobj if isinstance(image.dataobj, np.ndarray) else None


def _reads_a_file(proxy: Any) -> bool:
    """Whether values are those of one array in a file, as nibabel's own proxy says where."""
    from nibabel.arrayproxy import ArrayProxy

    return (
        type(proxy) is ArrayProxy
        and isinstance(proxy.file_like, str | os.PathLike)
        and getattr(proxy, "order", "F") == "F"
    )


def _stored(proxy: Any, header: _Described) -> ImageHeader:
    path = os.path.abspath(proxy.file_like)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}, to which the image points, is no longer there")
    shape = tuple(header.shape[axis] for axis in header.order)
    unit = f"{header.dims[header.order[0]]}s".replace("times", "volumes").replace("zs", "slices")
    values = stored_values(
        path, int(proxy.offset), shape, np.dtype(proxy.dtype), (proxy.slope, proxy.inter), unit
    )
    return ImageHeader(
        values, header.dims, header.order, header.affine, header.time, header.coords, header.attrs
    )


def _proxied(proxy: Any, header: _Described, dtype: Any) -> xr.Variable:
    """Values that only nibabel knows how to get, a region at a time."""
    given = tuple(map(int, proxy.shape))
    wanted = _floating(np.result_type(_proxy_type(proxy), np.float64), dtype)
    kept = tuple(axis for axis, length in enumerate(given) if length > 1)
    read = _Sliced(proxy, kept, given, header.order, header.shape, wanted)
    # (nibabel scales in float64)
    scratch = 2.0 * 8 / wanted.itemsize
    reading = Reading(scratch, interleaved=True)
    return lazy_variable(header.dims, read, header.shape, wanted, reading=reading)


def _proxy_type(proxy: Any) -> np.dtype:
    return np.dtype(getattr(proxy, "dtype", np.float64))  # (those of MINC do not say)


def _floating(stored: np.dtype, dtype: Any) -> np.dtype:
    wanted = exact_type(stored) if dtype is None else as_dtype(dtype)
    if stored.kind == "c":
        wanted = np.result_type(wanted, np.complex64)
    most = np.dtype(np.complex128 if wanted.kind == "c" else np.float64)
    return most if wanted.itemsize > most.itemsize else wanted  # (float64 is the widest we know)


@dataclass(frozen=True, eq=False)
class _Converted:
    """Reads regions of an array in another type."""

    values: np.ndarray
    dtype: np.dtype

    def __call__(self, *indexers: Indexer) -> np.ndarray:
        region = self.values
        for axis, indexer in enumerate(indexers):
            region = region[(slice(None),) * axis + (indexer,)]
        return region.astype(self.dtype, order="K")


@dataclass(frozen=True, eq=False)
class _Sliced:
    """Reads regions of what can be sliced like an array."""

    proxy: Any
    kept: tuple[int, ...]
    given: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype

    def __call__(self, *indexers: Indexer) -> np.ndarray:
        along = {}
        axes = iter(self.kept)
        for dim in self.order[::-1]:  # (in the order of the image's axes)
            if self.shape[dim] > 1:
                along[next(axes)] = indexers[dim]
        key: list[slice] = []
        after: list[Indexer] = []
        for axis in range(len(self.given)):
            wanted = along.get(axis, slice(0, 1))
            if not isinstance(wanted, slice):
                first = int(wanted[0]) if len(wanted) else 0
                last = int(wanted[-1]) + 1 if len(wanted) else 0
                after.append(wanted - first)
                wanted = slice(first, last)
            else:
                after.append(slice(None))
            key.append(wanted)
        values = np.asanyarray(self.proxy[tuple(key)])
        for axis, pick in enumerate(after):
            values = values[(slice(None),) * axis + (pick,)]
        lengths = [indexer_length(indexer) for indexer in indexers]
        values = values.reshape([lengths[dim] for dim in self.order[::-1]], order="F")
        values = values.transpose(np.argsort(self.order[::-1]))
        return values.astype(self.dtype, order="K")


# ---------------------------------------------------------------------- and back


def to_nibabel(ds: xr.Dataset, *, dtype: Any = None) -> Any:
    """An image of nibabel over a dataset of volumes; values that are lazy stay so until asked for.

    Parameters
    ----------
    ds : xarray.Dataset
        ``signal`` over x, y, z and, for several volumes, time, in any order of dims, with an
        ``affine``; vectors have a dim ``component`` as well.
    dtype : numpy dtype, optional
        Type in which nibabel will store the values. Default: the signal's, with truth values as
        uint8 and float16 as float32.

    Returns
    -------
    nibabel.Nifti1Image, or nibabel.Nifti2Image
        NIfTI-2 where an axis is too long for NIfTI-1, or the dataset was opened from it. The header
        has the affine, its codes, units, repetition time, and whatever else the header had from
        which the dataset was opened: intent, description, slice timing, extensions.

    Raises
    ------
    ValueError
        If the dataset is no volumes, or has no affine.

    Examples
    --------
    >>> import nibabel, numpy as np, penstock as ps
    >>> image = nibabel.Nifti1Image(np.zeros((4, 5, 6, 10), "f4"), np.diag([3.0, 3, 3, 1]))
    >>> image.header["descrip"] = b"resting state"
    >>> again = ps.to_nibabel(ps.from_nibabel(image).isel(time=slice(0, 4)))
    >>> again.shape, again.header["descrip"].item()
    ((4, 5, 6, 4), b'resting state')
    """
    import nibabel

    from penstock.io.nifti.write import image_header

    signal = ds["signal"].variable
    header, dims = image_header(ds, dtype)
    shape = tuple(map(int, header.get_data_shape()))
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    ordered = signal.transpose(*dims)
    if ordered._in_memory:
        values = np.asarray(ordered.values)
        data: Any = (values.view(np.uint8) if values.dtype == bool else values).reshape(shape)
    else:
        data = LazyValues(ordered, shape)
    return kind(data, header.get_best_affine(), header)


class LazyValues:
    """What nibabel calls an array proxy, over a lazy variable: read when it is sliced."""

    is_proxy = True
    slope, inter = 1.0, 0.0
    """Values are scaled already."""

    def __init__(self, variable: xr.Variable, shape: tuple[int, ...]):
        self._variable = variable
        self.shape = shape
        self.ndim = len(shape)
        self.dtype = np.dtype(np.uint8) if variable.dtype == bool else variable.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = np.asarray(self._variable.values).reshape(self.shape)
        return values.astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> np.ndarray:
        if self._variable.shape != self.shape:  # (an axis of length 1 of vectors)
            return np.asarray(np.asarray(self)[key])
        return np.asarray(self._variable[key].values)

    def __deepcopy__(self, memo: Any) -> LazyValues:
        return self  # (nothing of it changes)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Memory that all values take."""
        return math.prod(self.shape) * self.dtype.itemsize
