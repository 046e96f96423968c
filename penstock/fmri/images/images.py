"""Images in space: masks, label and map images, and the voxel grid that data lie on.

Images that steer a computation (masks, atlases) are small and kept in memory, known by their
content; the volumes themselves are datasets (see `penstock.dataset`), whose affine is a coordinate.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import xarray as xr

from penstock.dataset import SIGNAL
from penstock.fmri.images.sources import matching_paths, refuse_surface
from penstock.io.arrays.arrays import exact_type
from penstock.io.nifti.images import held_values
from penstock.io.nifti.images import to_nibabel as volumes_to_nibabel
from penstock.local_paths import check_local
from penstock.voxels import AFFINE as AFFINE
from penstock.voxels import AFFINE_DIMS as AFFINE_DIMS
from penstock.voxels import SPACE, check_affine, image_affine

if TYPE_CHECKING:
    from penstock.processor import Processor

# ---------------------------------------------------------------------- grids


@dataclass(frozen=True)
class VoxelGrid:
    """Where voxels lie: the shape of a volume and its affine.

    Parameters
    ----------
    shape : tuple of int
        Voxels along x, y and z.
    affine : (4, 4) tuple of tuples
        Voxel indices to world coordinates [mm]. Arrays are accepted.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.fmri.images.images import VoxelGrid
    >>> VoxelGrid((2, 3, 4), np.diag([3.0, 3.0, 3.5, 1.0])).voxel_sizes
    (3.0, 3.0, 3.5)
    """

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"a voxel grid needs three positive lengths, got {self.shape!r}")
        matrix = check_affine(self.affine)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", tuple(tuple(map(float, row)) for row in matrix))

    @property
    def matrix(self) -> np.ndarray:
        """The affine as an array, float64 (4, 4)."""
        return np.array(self.affine)

    @property
    def voxel_sizes(self) -> tuple[float, ...]:
        """Voxel sizes along x, y and z [mm]."""
        return voxel_sizes(self.matrix)


def voxel_sizes(affine: Any) -> tuple[float, ...]:
    """Voxel sizes along x, y and z [mm]: the lengths of the affine's columns."""
    matrix = np.asarray(affine, dtype=np.float64)[:3, :3]
    return tuple(float(size) for size in np.sqrt((matrix**2).sum(axis=0)))


def voxel_grid(image: Any) -> VoxelGrid:
    """The grid of a dataset of volumes, an image, or a path. Reads no voxels (of datasets).

    Parameters
    ----------
    image : xarray.Dataset, SpatialImage, VoxelGrid, nibabel image or path
        What has voxels.

    Raises
    ------
    ValueError
        If it has no affine, or its dims are not x, y and z.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.fmri.images.images import SpatialImage, voxel_grid
    >>> voxel_grid(SpatialImage(np.zeros((4, 5, 6)), np.eye(4))).shape
    (4, 5, 6)
    """
    if isinstance(image, VoxelGrid):
        return image
    if isinstance(image, xr.Dataset):
        variable = _signal_variable(image)
        x, y, z = (variable.sizes[dim] for dim in SPACE)
        return VoxelGrid((x, y, z), image_affine(image))  # type: ignore[arg-type]
    if isinstance(image, list | tuple) and image:
        image = image[0]
    if isinstance(image, str | os.PathLike):
        image = _open_file(Path(matching_paths(image)[0]), "image")
    if not hasattr(image, "affine") or not hasattr(image, "shape"):
        raise TypeError(f"{type(image).__name__} has no voxel grid")
    return VoxelGrid(tuple(image.shape[:3]), image.affine)  # type: ignore[arg-type]


def same_grid(a: Any, b: Any) -> bool:
    """Whether two images (or grids) have the same voxels: equal shapes, and affines that are close.

    The affines are compared by `numpy.allclose`, as nilearn does.
    """
    first, second = voxel_grid(a), voxel_grid(b)
    return first.shape == second.shape and np.allclose(first.matrix, second.matrix)


def _signal_variable(ds: xr.Dataset) -> xr.Variable:
    if SIGNAL not in ds.data_vars:
        raise ValueError(f"the dataset has no variable {SIGNAL!r}")
    variable = ds.variables[SIGNAL]
    missing = [dim for dim in SPACE if dim not in variable.dims]
    if missing:
        raise ValueError(
            f"volumes need the dims x, y and z, but the data have {tuple(map(str, variable.dims))}"
        )
    return variable


def floating_type(dtype: np.dtype) -> np.dtype:
    """The floating type in which voxels are filtered: the smallest that holds them exactly."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "biuf":
        raise ValueError(f"volumes hold real numbers, not {dtype}")
    return np.dtype(np.float32 if exact_type(dtype).itemsize == 4 else np.float64)


def nearly_whole(values: np.ndarray) -> np.ndarray:
    """Which values are whole numbers, up to what rounding does to them: a few parts in a million.

    Atlases that are saved with a slope that is not quite 1, or in float32, hold such labels.
    """
    slack = np.clip(5e-6 * np.abs(values), 5e-6, 0.01)
    near: np.ndarray = np.abs(values - np.rint(values)) <= slack
    return near


# ---------------------------------------------------------------------- images


@dataclass(frozen=True, eq=False)
class SpatialImage:
    """One image in memory: a mask, labels, a map, or several maps.

    Images are equal where their content is; the array must not be changed afterwards.

    Parameters
    ----------
    data : numpy.ndarray
        Values (x, y, z), or (x, y, z, n) for n maps. Numbers or bool.
    affine : numpy.ndarray
        Voxel indices to world coordinates [mm], (4, 4).
    source : str, default ""
        Path that the image was read from.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.fmri.images.images import SpatialImage
    >>> mask = SpatialImage(np.ones((4, 5, 6), bool), np.eye(4))
    >>> mask == SpatialImage(np.ones((4, 5, 6), bool), np.eye(4))
    True
    """

    data: np.ndarray
    affine: np.ndarray
    source: str = ""

    def __post_init__(self) -> None:
        data = np.asarray(self.data)
        if data.dtype.kind not in "biuf":
            raise ValueError(f"an image holds numbers, not {data.dtype}")
        if data.ndim not in (3, 4) or 0 in data.shape:
            raise ValueError(f"an image has three or four dims that are not empty: {data.shape}")
        if data.dtype.kind == "f" and data.dtype.itemsize not in (4, 8):
            data = data.astype(floating_type(data.dtype))
        data = data.astype(data.dtype.newbyteorder("="), copy=False).view()
        data.flags.writeable = False  # (several threads, and the cache of files, share it)
        affine = check_affine(self.affine)
        affine.flags.writeable = False
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data."""
        return self.data.shape

    @property
    def grid(self) -> VoxelGrid:
        """The voxel grid."""
        return voxel_grid(self)

    def to_nibabel(self) -> Any:
        """The image as a `nibabel.Nifti1Image`; bool becomes uint8."""
        return to_nibabel(self)

    def to_filename(self, path: str | os.PathLike[str]) -> None:
        """Write the image (.nii or .nii.gz); `nibabel.save` does it as well."""
        self.to_nibabel().to_filename(path)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of type, shape, affine and values."""
        found = hashlib.sha256(f"{self.data.dtype.name} {self.shape}".encode())
        found.update(self.affine.tobytes())
        found.update(np.ascontiguousarray(self.data.T).data)
        return found.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SpatialImage) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        where = f", source={self.source!r}" if self.source else ""
        return f"SpatialImage(shape={self.shape}, dtype={self.data.dtype}{where})"


ImageLike: TypeAlias = "str | Path | SpatialImage | xr.Dataset | Any"
"""What `load_image` takes; `Any` stands for nibabel's images."""


def load_image(
    image: ImageLike, *, name: str = "image", ndim: int | tuple[int, ...] = 3
) -> SpatialImage:
    """An image in memory, from whatever holds one.

    Parameters
    ----------
    image : path, nibabel image, xarray.Dataset or SpatialImage, or a list of them
        A file that nibabel opens, or an image. Datasets need an ``affine`` coordinate. Images of a
        list, or those that a pattern such as ``"maps_*.nii"`` matches, follow each other along the
        fourth dim.
    name : str, default "image"
        What errors call it.
    ndim : int or tuple of int, default 3
        How many dims it may have: 3 (a mask, labels), 4 (maps), or ``(3, 4)``. A trailing axis of
        length 1 is dropped where only 3 are expected; a single volume is one map where only 4 are.

    Returns
    -------
    SpatialImage
        Integers keep their type; other values are float32 or float64 as stored.

    Raises
    ------
    FileNotFoundError
        If the path leads nowhere.
    ValueError
        If it is no image, or has another number of dims.

    Examples
    --------
    >>> import numpy as np, nibabel
    >>> from penstock.fmri.images.images import load_image
    >>> load_image(nibabel.Nifti1Image(np.ones((4, 5, 6), "int16"), np.eye(4)))
    SpatialImage(shape=(4, 5, 6), dtype=int16)
    """
    allowed = (ndim,) if isinstance(ndim, int) else tuple(ndim)
    if isinstance(image, str | os.PathLike):
        paths = matching_paths(image)
        image = list(paths) if len(paths) > 1 else paths[0]
    if isinstance(image, list | tuple):
        return _stacked(image, name, allowed)
    if isinstance(image, str):
        return _load_file(Path(image), name, allowed)
    if isinstance(image, SpatialImage):
        shape = _fitting_shape(image.shape, name, allowed)
        if shape == image.shape:
            return image
        return SpatialImage(image.data.reshape(shape), image.affine, image.source)
    if isinstance(image, xr.Dataset):
        variable = _signal_variable(image)
        rest = [str(dim) for dim in variable.dims if dim not in SPACE]
        ordered = variable.transpose(*SPACE, *rest)
        shape = _fitting_shape(ordered.shape, name, allowed)
        affine = image_affine(image)
        data = np.asarray(ordered.values)
        return SpatialImage(data.reshape(shape), affine, str(image.attrs.get("source", "")))
    if hasattr(image, "dataobj") and hasattr(image, "affine"):
        return _from_nibabel(image, name, allowed)
    refuse_surface(image, name)
    raise TypeError(
        f"{name} must be a path, a nibabel image, a SpatialImage or a dataset with an affine, got "
        f"{type(image).__name__}"
    )


def _stacked(images: Any, name: str, allowed: tuple[int, ...]) -> SpatialImage:
    """Images of a list, one after the other along the fourth dim."""
    if not images:
        raise ValueError(f"{name} is an empty list: give an image")
    loaded = [load_image(one, name=name, ndim=(3, 4)) for one in images]
    if len(loaded) == 1:
        return load_image(loaded[0], name=name, ndim=allowed)
    for number, one in enumerate(loaded[1:], 2):
        if not same_grid(loaded[0], one):
            raise ValueError(
                f"image {number} of the list {name} lies on another voxel grid than the first: "
                "resample it to that with penstock.fmri.resample_image"
            )
    volumes = [one.data if one.data.ndim == 4 else one.data[..., np.newaxis] for one in loaded]
    stacked = SpatialImage(np.concatenate(volumes, axis=3), loaded[0].affine)
    return load_image(stacked, name=name, ndim=allowed)


def to_nibabel(image: ImageLike) -> Any:
    """The image as a `nibabel.Nifti1Image`; bool becomes uint8. See `penstock.to_nibabel`, too.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.fmri.images.images import SpatialImage, to_nibabel
    >>> to_nibabel(SpatialImage(np.ones((4, 5, 6), bool), np.eye(4))).get_data_dtype()
    dtype('uint8')
    """
    if isinstance(image, xr.Dataset):
        return volumes_to_nibabel(image)
    found = load_image(image, ndim=(3, 4))
    data = found.data.astype(np.uint8) if found.data.dtype == bool else found.data
    made = _nibabel().Nifti1Image(data, found.affine, dtype=data.dtype)
    made.header.set_xyzt_units("mm", "sec")
    if found.data.ndim == 4:
        made.header["pixdim"][4] = 0  # (several maps: they do not follow each other in time)
    return made


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise ImportError(
            'images need nibabel, which is not installed: pip install "penstock[fmri]"'
        ) from error
    return nibabel


def _fitting_shape(shape: tuple[int, ...], name: str, allowed: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without trailing axes of length 1 that nobody expects."""
    fitting = tuple(shape)
    while len(fitting) > max(allowed) and fitting[-1] == 1:
        fitting = fitting[:-1]
    if len(fitting) in allowed:
        return fitting
    if allowed == (4,) and len(fitting) == 3:
        return (*fitting, 1)
    given = " x ".join(map(str, shape))
    wanted = " or ".join(map(str, allowed))
    hint = ""
    if allowed == (3,) and len(fitting) == 4:
        hint = ": give one volume of it"
    raise ValueError(f"{name} has {len(fitting)} dims ({given}) where {wanted} are expected{hint}")


def _from_nibabel(image: Any, name: str, allowed: tuple[int, ...]) -> SpatialImage:
    _fitting_shape(image.shape, name, allowed)  # (before anything is read)
    if image.affine is None:
        raise ValueError(f"{name} has no affine: it does not say where its voxels lie")
    held = held_values(image)
    data = np.asanyarray(image.dataobj) if held is None else _as_stored(held, image.dataobj)
    if isinstance(data, np.memmap):  # (a file that changes later must not change the image)
        data = np.array(data)
    data = data.reshape(_fitting_shape(image.shape, name, (3, 4)))
    filename = image.get_filename()
    source = os.path.abspath(filename) if filename else ""
    return load_image(SpatialImage(data, image.affine, source), name=name, ndim=allowed)


def _as_stored(held: np.ndarray, proxy: Any) -> np.ndarray:
    """Values that an image keeps in memory, in the type of its file where that holds them."""
    stored = np.dtype(getattr(proxy, "dtype", held.dtype))
    if stored.kind not in "iu" or held.dtype.kind != "f":
        return held
    with np.errstate(invalid="ignore"):
        whole = held.astype(stored)
    return whole if np.array_equal(whole, held) else held


def _load_file(path: Path, name: str, allowed: tuple[int, ...]) -> SpatialImage:
    opened = _open_file(path, name)
    _fitting_shape(opened.shape, f"{name} {path}", allowed)
    status = path.stat()
    try:
        found = _read_file(str(path.absolute()), status.st_mtime_ns, status.st_size)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{name}: {path} is cut short or damaged: {error}") from error
    return load_image(found, name=f"{name} {path}", ndim=allowed)


def _open_file(path: Path, name: str) -> Any:
    """The image of a file, opened, of which no voxel is read."""
    nibabel = _nibabel()
    check_local(path)
    if not path.exists():
        raise FileNotFoundError(f"{name}: no such file: {path}")
    try:
        opened = nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{name}: {path} is not an image that can be read: {error}") from error
    if not hasattr(opened, "dataobj") or not hasattr(opened, "affine"):
        raise ValueError(f"{name}: {path} holds no voxels ({type(opened).__name__})")
    return opened


@lru_cache(maxsize=4)
def _read_file(path: str, mtime_ns: int, size: int) -> SpatialImage:
    """Read a whole image; a file that changed has another time or size, and is read again."""
    return _from_nibabel(_nibabel().load(path), path, (3, 4))


# ---------------------------------------------------------------------- images as parameters


def adopt_images(processor: Processor, *names: str) -> None:
    """Bring image parameters into one of their two forms: a path (str), or a `SpatialImage`.

    For ``__post_init__`` of processors, before that of `Processor` checks the types: users may then
    give paths as `pathlib.Path`, nibabel images and datasets as well. None stays None.
    """
    for name in names:
        object.__setattr__(processor, name, image_parameter(getattr(processor, name), name))


def image_parameter(value: Any, name: str = "image") -> str | SpatialImage | None:
    """A path as str, or the image in memory; other values go to `load_image`."""
    if value is None or isinstance(value, str | SpatialImage):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return load_image(value, name=name, ndim=(3, 4))


def image_digests(processor: Processor, *names: str) -> dict[str, str]:
    """Digests of the images of a processor, for its canonical form: their content decides."""
    values = {name: getattr(processor, name) for name in names}
    return {
        name: load_image(value, name=name, ndim=(3, 4)).digest
        for name, value in values.items()
        if value is not None
    }


def plain_images(parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters with every image as a plain value: its path, or its digest where it has none."""
    return {name: _plain_image(value) for name, value in parameters.items()}


def _plain_image(value: Any) -> Any:
    if not isinstance(value, SpatialImage):
        return value
    return value.source or f"sha256:{value.digest}"


def check_images_have_paths(processor: Processor, *names: str) -> None:
    """Raise ValueError where an image parameter is only in memory, so that no file can name it."""
    for name in names:
        value = getattr(processor, name)
        if isinstance(value, SpatialImage) and not value.source:
            raise ValueError(
                f"{type(processor).__name__}: {name} is only in memory and cannot be written to a "
                "file: save the image and give its path"
            )
