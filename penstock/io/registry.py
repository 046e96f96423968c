"""Which reader opens which file: by what the file holds first, then by how it is named."""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from penstock.damage import is_own_reader, readable
from penstock.dataset import check_dataset
from penstock.installed import is_installed
from penstock.io.objects import as_dataset, is_object
from penstock.io.open_options import CASES, check_rate, options_for, takes, with_bads
from penstock.local_paths import local_path, not_there
from penstock.sampled import with_virtual_time

HEAD_BYTES = 512


@dataclass(frozen=True)
class Reader:
    """One format that Penstock opens."""

    name: str
    """What `open_dataset(engine=...)` calls it."""
    extensions: tuple[str, ...]
    """Lower case with the dot; folders are searched for these."""
    open: Callable[..., xr.Dataset] | str
    """``open(path, *, dtype, ...) -> dataset``, or where that is (``"module:function"``): then the
    module is imported when a file of the format is opened, not before."""
    can_open: Callable[[bytes], bool] | None = None
    """Whether the first 512 bytes of a file are of this format; None: cannot be told."""
    shared_extensions: tuple[str, ...] = ()
    """Extensions that other kinds of files use as well: opened when named, never searched for."""
    requires: tuple[str, ...] = ()
    """Modules the reader imports, checked before it is called."""
    extra: str = ""
    """The optional extra of Penstock that installs `requires`."""
    on_disk: str = "either"
    """What a recording of this format is: a ``"file"``, a ``"folder"``, or ``"either"``."""
    folder_holds: str = ""
    """Pattern of a file in folders with a shared extension, by which they are told from others."""
    modules: tuple[str, ...] = ()
    """Further modules that reading imports: memory of the process beside what it takes anyway."""

    @property
    def function(self) -> Callable[..., xr.Dataset]:
        """The function that opens a file."""
        if not isinstance(self.open, str):
            return self.open
        module, _, name = self.open.partition(":")
        found: Callable[..., xr.Dataset] = getattr(importlib.import_module(module), name)
        return found


_readers: dict[str, Reader] = {}


def register_reader(reader: Reader) -> Reader:
    """Make a format known to `open_dataset`; a reader of the same name is replaced.

    Parameters
    ----------
    reader : Reader
        Name, extensions and functions of the format.

    Returns
    -------
    Reader
        The same reader.

    Examples
    --------
    >>> import numpy as np, penstock as ps
    >>> from penstock.io import Reader, register_reader
    >>> def open_table(path, *, dtype="float32"):
    ...     values = np.loadtxt(path, dtype, delimiter=",", ndmin=2)
    ...     return ps.make_dataset(values, sampling_frequency=250.0)
    >>> _ = register_reader(Reader("table", (".csv",), open_table))
    """
    _readers[reader.name] = reader
    return reader


def readers() -> dict[str, Reader]:
    """Every known reader by name."""
    return dict(_readers)


def extensions() -> tuple[str, ...]:
    """Extensions of recordings (lower case, with the dot): what a folder is searched for."""
    known = {extension for reader in _readers.values() for extension in reader.extensions}
    return tuple(sorted(known | {".zarr"}))


def open_dataset(
    path: str | os.PathLike[str],
    *,
    engine: str | None = None,
    dtype: Any = None,
    channel_types: Mapping[str, str] | None = None,
    rate: float | None = None,
    bads: Sequence[str] | None = None,
    sidecars: bool = True,
    **kwargs: Any,
) -> xr.Dataset:
    """Open a recording or dataset; its values stay in the file until a region is asked for.

    The format is told from the file's first bytes where it has a signature, otherwise from its
    extension, so a BDF file named ``.edf`` opens as what it is.

    Parameters
    ----------
    path : path-like, mne.io.Raw or mne.Epochs
        A recording, an HDF5 or NumPy file, or a Zarr store written by Penstock; an object of
        MNE-Python gives what `from_mne` makes of it.
    engine : str, optional
        Name of the reader to use (see `readers`) instead of the one the file asks for.
    dtype : {"float32", "float64"}, optional
        Type of the samples. Default: the smallest one that holds the stored values exactly, as the
        reader of the format says. Zarr stores keep the type they were written with.
    channel_types : mapping of str to str, optional
        Channel name to type (``"eeg"``, ``"eog"``, ``"stim"``, ...), for channels whose type the
        file does not tell.
    rate : float, optional
        Sampling frequency [Hz] of the channels that become ``signal``, for files with several;
        the others become ``signal_<rate>Hz``. Default: what the reader of the format takes for the
        recording. A file with another rate alone is refused.
    bads : sequence of str, optional
        Names of channels to mark as bad, beside those that the file marks.
    sidecars : bool, default True
        Whether the files that BIDS keeps beside a recording are used (``channels.tsv``,
        ``events.tsv``, ``electrodes.tsv``, ``*_eeg.json``: see `penstock.io.bids.sidecars`).
        ``attrs["sidecars"]`` names those that were, ``attrs["sidecar_notes"]`` what they changed.
    **kwargs
        Options of the reader: ``gaps="join"`` for interrupted recordings (EDF+D), ``stim_mask``
        for BDF (see `penstock.io.edf.open.open_edf`), those of MNE-Python's readers; for HDF5 and
        NumPy files ``dataset`` (which of several), and for arrays that do not say what they are,
        ``dims`` (names of their axes), ``coords``, ``units`` and ``sampling_frequency`` (see
        `penstock.io.hdf5.open.open_hdf5`, `penstock.io.arrays.npy.open_npy`).

    Returns
    -------
    xarray.Dataset
        Recordings: ``signal`` (channel, time) with `units`, virtual time coordinate, events and
        channel variables. Spectra and images: ``signal`` over the dims of the measurement,
        positions first. ``attrs["source"]`` is the absolute path.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        One sentence: what is wrong, with which file, and what to do.

    Examples
    --------
    >>> import penstock as ps
    >>> ds = ps.open_dataset("recording.edf")  # doctest: +SKIP
    >>> ds.signal.sel(channel="Cz", time=slice(10, 20)).values  # doctest: +SKIP
    """
    if is_object(path):
        if kwargs or any(o is not None for o in (engine, channel_types, rate, bads)):
            raise ValueError(
                f"a {type(path).__name__} object takes no options of files: change it in its own "
                "library, or the dataset afterwards"
            )
        return check_dataset(as_dataset(path, **({} if dtype is None else {"dtype": dtype})))
    path = local_path(path)
    if not os.path.exists(path):
        raise FileNotFoundError(not_there(path))
    if engine is None and _is_zarr(path):
        with readable(path):
            ds = _open_zarr(path, dict(kwargs, channel_types=channel_types))
        return with_bads(check_rate(ds, rate, path), bads, path)
    reader = _named_reader(engine) if engine is not None else find_reader(path)
    missing = [name for name in reader.requires if not is_installed(name)]
    if missing:
        raise MissingExtraError(
            f"{path} needs {' and '.join(missing)} to be read: pip install "
            f'"penstock[{reader.extra}]"'
        )
    options: dict[str, Any] = dict(kwargs)
    if dtype is not None:
        options["dtype"] = dtype
    if channel_types is not None:
        options["channel_types"] = dict(channel_types)
    if rate is not None:
        options["rate"] = rate
    function = reader.function
    options = options_for(reader.name, function, path, options)
    with readable(path) if is_own_reader(function) else contextlib.nullcontext():
        ds = check_dataset(function(path, **options))
    if sidecars:
        from penstock.io.bids.sidecars import Reopening, with_sidecars

        def reopen(types: dict[str, str], units: dict[str, str]) -> xr.Dataset:
            wanted = {"channel_types": {**types, **(channel_types or {})}, "channel_units": units}
            taken = {name: value for name, value in wanted.items() if takes(function, name)}
            return check_dataset(function(path, **{**options, **taken}))

        again = Reopening(reopen, takes(function, "channel_units"), dict(channel_types or {}))
        with readable(path):
            ds = with_sidecars(ds, path, again)
    with readable(path):
        ds = with_virtual_time(ds)
    return with_bads(check_rate(ds, rate, path), bads, path)


class MissingExtraError(ImportError, ValueError):
    """A format needs a library that is not installed."""


def find_reader(path: str) -> Reader:
    """The reader for an existing file, from its first bytes and its name."""
    name = os.path.basename(path)
    candidates = _readers_by_extension(path)
    named = candidates[0] if candidates else None
    if os.path.isdir(path):
        if named is not None:
            return named
        raise IsADirectoryError(f"{path} is a folder, not a recording: give one of the files in it")
    header = _header_beside(path)
    if header is not None:
        raise ValueError(f"{name} is only a part of the recording {header}: open {header} instead")
    head = _head(path)
    if not head:
        raise ValueError(f"{path} is empty (0 bytes): copy or export it again")
    for reader in candidates:
        if reader.can_open is None or reader.can_open(head):
            return reader
    for reader in _readers.values():
        if reader.can_open is not None and reader.can_open(head):
            return reader
    folder = whole_of(path)
    if folder is not None:
        raise ValueError(f"{path} is only a part of the recording {folder}: open {folder} instead")
    folders = [r for r in _readers.values() if r.on_disk == "folder"]
    if any(name.lower().endswith(reader.extensions) for reader in folders if reader.extensions):
        raise ValueError(f"{path} is a file, but such a recording is a folder: copy it whole")
    if named is not None:
        raise ValueError(
            f"{path} is named like {named.name.upper()} but does not hold it "
            f"(it begins with {_excerpt(head)}): check where the file comes from"
        )
    raise ValueError(
        f"cannot tell the format of {path} (it begins with {_excerpt(head)}): known are "
        f"{', '.join(extensions())}; name the reader with engine= or register one with "
        "penstock.io.register_reader"
    )


def _head(path: str) -> bytes:
    """The first bytes of a file; of an HDF5 file with a block of the user's own, those behind it.

    (Such a block has 512 bytes, or a power of two times as many; MATLAB writes one.)
    """
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
        size, at = os.path.getsize(path), HEAD_BYTES
        while at < size and not _is_hdf5(head):
            file.seek(at)
            if _is_hdf5(file.read(8)):
                file.seek(at)
                return file.read(HEAD_BYTES)
            at *= 2
    return head


def _named_reader(engine: str) -> Reader:
    if engine not in _readers:
        raise ValueError(f"engine {engine!r} is not known: use one of {', '.join(_readers)}")
    return _readers[engine]


def _readers_by_extension(path: str) -> list[Reader]:
    """Readers with the longest extension that fits, those that can tell their files first."""
    lower = os.path.basename(path).lower()
    if _header_beside(path) is not None:
        return []
    kind = "folder" if os.path.isdir(path) else "file"
    fitting: dict[int, list[Reader]] = {}
    for reader in _readers.values():
        if reader.on_disk not in ("either", kind):
            continue
        for extension in (*reader.extensions, *reader.shared_extensions):
            if lower.endswith(extension):
                fitting.setdefault(len(extension), []).append(reader)
    longest = fitting[max(fitting)] if fitting else []
    return sorted(longest, key=lambda reader: reader.can_open is None)


def reading_modules(paths: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Modules that reading some files imports, as their names tell."""
    modules: dict[str, None] = {}
    # (a run of many recordings has few kinds of names)
    for path in {os.path.splitext(path)[1].lower(): os.fspath(path) for path in paths}.values():
        for reader in _readers_by_extension(path)[:1]:
            own = [reader.open.partition(":")[0]] if isinstance(reader.open, str) else []
            modules |= dict.fromkeys((*reader.requires, *own, *reader.modules))
    return tuple(modules)


def missing_modules(paths: Iterable[str | os.PathLike[str]]) -> dict[str, str]:
    """What must be installed before any of some files can be read, with the extra that brings it.

    Nothing where one of them can be read: the others are told where they are opened.
    """
    missing: dict[str, str] = {}
    for path in {os.path.splitext(path)[1].lower(): os.fspath(path) for path in paths}.values():
        readers = _readers_by_extension(path)
        absent = [name for name in readers[0].requires if not is_installed(name)] if readers else []
        if not absent:
            return {}
        missing |= dict.fromkeys(absent, readers[0].extra)
    return missing


def is_recording_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is one recording (``.mff``, ``.ds``, ``.zarr``), not a place of several."""
    text = os.fspath(path)
    if not os.path.isdir(text):
        return False
    return _is_zarr(text) or any(
        not _shared_by(reader, text) or _holds(text, reader.folder_holds)
        for reader in _readers_by_extension(text)
    )


def _shared_by(reader: Reader, path: str) -> bool:
    return not os.path.basename(path).lower().endswith(reader.extensions)


def _holds(folder: str, pattern: str) -> bool:
    with contextlib.suppress(OSError):
        return any(fnmatch.fnmatch(name.lower(), pattern) for name in os.listdir(folder))
    return False


def whole_of(path: str | os.PathLike[str], known: dict[Path, bool] | None = None) -> str | None:
    """The recording of which a file is only a part: a folder, or the header beside it.

    `known` remembers which folders are recordings, for those who ask about many files.
    """
    text = os.fspath(path)
    known = {} if known is None else known
    header = _header_beside(text)
    if header is not None:
        return os.path.join(os.path.dirname(text), header)
    for folder in Path(text).parents:
        if folder not in known:
            known[folder] = bool(folder.name) and is_recording_folder(folder)
        if known[folder]:
            return str(folder)
    return None


def _header_beside(path: str) -> str | None:
    """Formats of several files are opened by their header; the others point to it."""
    parts = {".eeg": ".vhdr", ".vmrk": ".vhdr", ".fdt": ".set", ".dat": ".vhdr"}
    file = Path(path)
    header = parts.get(file.suffix.lower())
    if header is not None and file.with_suffix(header).exists():
        return file.with_suffix(header).name
    return None


def _excerpt(head: bytes) -> str:
    text = head[:16]
    return repr(text.decode()) if text.isascii() else repr(text)[1:]


# ---------------------------------------------------------------------- built-in formats


def _is_zarr(path: str) -> bool:
    return path.lower().endswith(".zarr") or os.path.exists(os.path.join(path, "zarr.json"))


def _open_zarr(path: str, options: Mapping[str, Any]) -> xr.Dataset:
    from penstock.storage.store import open_store

    given = [name for name, value in options.items() if value is not None and name not in CASES]
    if given:
        raise ValueError(f"a Zarr store takes no options, got {', '.join(given)} for {path}")
    return open_store(path)


def _is_hdf5(head: bytes) -> bool:
    return head.startswith(b"\x89HDF\r\n\x1a\n")


def _is_matlab(head: bytes) -> bool:
    # (those of version 4 have no signature: they are opened by name)
    return head[:7] == b"MATLAB " and head[124:128] in (b"\x00\x01IM", b"\x01\x00MI")


def _is_npy(head: bytes) -> bool:
    return head.startswith(b"\x93NUMPY")


def _is_edf(head: bytes) -> bool:
    return head[:8] == b"0       " or head[:8] == b"\xffBIOSEMI"


def _is_fif(head: bytes) -> bool:
    # the first tag of every FIF file is FIFF_FILE_ID (100), big-endian
    return head[:4] == b"\x00\x00\x00\x64"


def _is_image(head: bytes) -> bool:
    from penstock.io.nifti.header import image_format

    return image_format(head) is not None


def _is_brainvision(head: bytes) -> bool:
    first_line = head.lstrip(b"\xef\xbb\xbf").splitlines()[0]
    return first_line.startswith((b"Brain Vision", b"BrainVision")) and b"Header" in first_line


def _is_gdf(head: bytes) -> bool:
    return head.startswith(b"GDF ")


def _mne_reader(
    name: str,
    extensions: tuple[str, ...],
    can_open: Callable[[bytes], bool] | None = None,
    shared: tuple[str, ...] = (),
    on_disk: str = "file",
    folder_holds: str = "",
    loads: tuple[str, ...] = (),
) -> None:
    function = "penstock.io.mne.open:open_mne"
    needs = ("mne",)
    register_reader(
        Reader(
            name,
            extensions,
            function,
            can_open,
            shared,
            needs,
            "eeg",
            on_disk,
            folder_holds,
            ("penstock.io.mne.loaded", *loads),
        )
    )


register_reader(
    Reader(
        "edf",
        (".edf", ".bdf"),
        "penstock.io.edf.open:open_edf",
        _is_edf,
        shared_extensions=(".rec",),
        on_disk="file",
    )
)
_mne_reader("fif", (".fif",), _is_fif)
_mne_reader("fif.gz", (".fif.gz",), None)
_mne_reader("brainvision", (".vhdr", ".ahdr"), _is_brainvision)
_mne_reader("gdf", (".gdf",), _is_gdf)
_mne_reader("eeglab", (".set",), loads=("scipy.io", "pymatreader"))
_mne_reader(
    "mne",
    (".cnt", ".cdt", ".nxe", ".nedf", ".lay", ".ns3", ".snirf"),
    None,
    # Nihon Kohden, BCI2000, Nicolet, FieldTrip, KIT, EyeLink, ...: names others use as well
    (".eeg", ".dat", ".data", ".bin", ".con", ".sqd", ".hdr", ".asc", ".txt",
     ".dap", ".rs3", ".cef", ".cdt.dpa", ".cdt.cef"),
)  # fmt: skip
# EGI and MEF3; CTF, whose extension others may use for folders of files
_mne_reader("mne folder", (".mff", ".mefd"), None, (".ds",), "folder", "*.res4")
register_reader(
    Reader(
        "hdf5",
        (".h5", ".hdf5", ".usid", ".nsid"),
        "penstock.io.hdf5.open:open_hdf5",
        _is_hdf5,
        (".nxs", ".nx5", ".nexus", ".emd", ".hspy", ".nix", ".nc", ".mat", ".he5", ".cxi"),
        on_disk="file",
    )
)
register_reader(
    Reader(
        "matlab", (), "penstock.io.arrays.matlab:open_matlab", _is_matlab, (".mat",), on_disk="file"
    )
)
register_reader(
    Reader("matlab 4", (), "penstock.io.arrays.matlab:open_matlab", None, (".mat",), on_disk="file")
)
register_reader(Reader("usid", (), "penstock.io.hdf5.usid:open_usid"))
register_reader(Reader("nsid", (), "penstock.io.hdf5.nsid:open_nsid"))
# arrays of anything: opened when named, a folder of recordings may hold them for other purposes
_arrays = "penstock.io.arrays.npy:open_npy"
register_reader(Reader("npy", (), _arrays, _is_npy, (".npy",), on_disk="file"))
register_reader(Reader("npz", (), _arrays, None, (".npz",), on_disk="file"))
register_reader(
    Reader(
        "nifti",
        (".nii", ".nii.gz", ".mgh", ".mgz"),
        "penstock.io.nifti.open:open_nifti",
        _is_image,
        (".hdr", ".hdr.gz", ".mgh.gz"),
        ("nibabel",),
        "fmri",
        on_disk="file",
    )
)
# what the first bytes do not tell: values of a pair (their header does), and compressed files of
# which a large piece must be inflated at once
register_reader(
    Reader(
        "nifti pair",
        (".nii.bz2", ".nii.xz", ".nii.zst"),
        "penstock.io.nifti.open:open_nifti",
        shared_extensions=(
            *(".img", ".img.gz", ".img.bz2", ".img.xz", ".img.zst"),
            *(".hdr.bz2", ".hdr.xz", ".hdr.zst", ".mgh.bz2", ".mgh.xz", ".mgh.zst"),
        ),
        requires=("nibabel",),
        extra="fmri",
        on_disk="file",
    )
)

BUILT_IN = readers()
"""The readers that Penstock brings along; all others are a user's."""
