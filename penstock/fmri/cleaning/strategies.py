"""Confounds of fMRIPrep by what they are about: motion, tissue signals, components, censoring.

The components and their parameters are those of `nilearn.interfaces.fmriprep.load_confounds`
(Ciric et al. 2017, doi:10.1016/j.neuroimage.2017.03.020, for the choices among them).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from penstock.fmri.cleaning.censoring import kept_volumes
from penstock.fmri.cleaning.confounds import find_confounds, read_table, wrong_length
from penstock.plain_values import from_json, read_text

if TYPE_CHECKING:
    import pandas as pd

Terms = Literal["basic", "power2", "derivatives", "full"]
CompCor = Literal[
    "anat_combined", "anat_separated", "temporal", "temporal_anat_combined",
    "temporal_anat_separated",
]  # fmt: skip

_TERMS: dict[str, tuple[str, ...]] = {
    "basic": ("",),
    "power2": ("", "_power2"),
    "derivatives": ("", "_derivative1"),
    "full": ("", "_derivative1", "_power2", "_derivative1_power2"),
}
_BASES = {
    "motion": ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"),
    "wm_csf": ("csf", "white_matter"),
    "global_signal": ("global_signal",),
}
COMPONENTS = (
    *_BASES, "high_pass", "compcor", "ica_aroma", "scrub", "non_steady_state"
)  # fmt: skip
AROMA_IMAGE = "desc-smoothAROMAnonaggr_bold"


@dataclass(frozen=True)
class ConfoundStrategy:
    """Which confounds are taken, and which volumes are left out.

    Parameters
    ----------
    strategy : tuple of str
        Some of ``"motion"``, ``"wm_csf"``, ``"global_signal"``, ``"high_pass"`` (fMRIPrep's
        cosines), ``"compcor"``, ``"ica_aroma"``, ``"scrub"`` and ``"non_steady_state"`` (which
        always counts). ``"motion=basic"`` sets the parameter of that name.
    motion, wm_csf, global_signal : {"basic", "power2", "derivatives", "full"}
        Signals alone, with their squares, with their differences, or with both and the squares of
        the differences.
    scrub : int, default 5
        Runs of fewer volumes than this between two that are left out are left out, too.
    fd_threshold : float, default 0.5
        Framewise displacement above which a volume is left out [mm].
    std_dvars_threshold : float, default 1.5
        Standardized DVARS above which a volume is left out.
    compcor : str, default "anat_combined"
        ``"anat_combined"``, ``"anat_separated"``, ``"temporal"``, or ``"temporal_anat_..."``.
    n_compcor : int or "all", default "all"
        Components of each mask.
    ica_aroma : {"full", "basic"}, default "full"
        ``"full"``: the image is the one that ICA-AROMA has cleaned, and nothing is taken of the
        table; ``"basic"``: its components are confounds.
    demean : bool, default True
        Centre each confound on its mean over the volumes that are kept.

    Raises
    ------
    ValueError
        If a component or parameter is unknown, or components do not go together.
    """

    strategy: tuple[str, ...] = ("motion", "high_pass", "wm_csf")
    motion: Terms = "full"
    scrub: int = 5
    fd_threshold: float = 0.5
    std_dvars_threshold: float = 1.5
    wm_csf: Terms = "basic"
    global_signal: Terms = "basic"
    compcor: CompCor = "anat_combined"
    n_compcor: int | Literal["all"] = "all"
    ica_aroma: Literal["full", "basic"] = "full"
    demean: bool = True

    def __post_init__(self) -> None:
        asked: Any = self.strategy
        given = (asked,) if isinstance(asked, str) else tuple(asked)
        names = []
        for entry in given:
            name, mark, value = str(entry).partition("=")
            if name not in COMPONENTS:
                raise ValueError(
                    f"unknown strategy {name!r} of confounds: choose of {', '.join(COMPONENTS)}"
                )
            if mark:
                object.__setattr__(self, name, int(value) if value.isdigit() else value)
            names.append(name)
        object.__setattr__(self, "strategy", tuple(names))
        for name in _BASES:
            self._check_choice(name, tuple(_TERMS))
        self._check_choice("compcor", get_args(CompCor))
        self._check_choice("ica_aroma", ("full", "basic"))
        if "compcor" in names and "high_pass" not in names:
            raise ValueError(
                "components of CompCor are those of data without slow drifts: add 'high_pass' to "
                "the strategy"
            )
        number: Any = self.n_compcor
        if number != "all" and not (isinstance(number, int) and number > 0):
            raise ValueError(f"n_compcor must be 'all' or a whole number, got {self.n_compcor!r}")
        for name in ("fd_threshold", "std_dvars_threshold"):
            limit: Any = getattr(self, name)
            if isinstance(limit, bool | str) or not limit > 0:
                raise ValueError(f"{name} must be a number above 0, got {limit!r}")
        length: Any = self.scrub
        if not isinstance(length, int) or length < 0:
            raise ValueError(f"scrub must be a number of volumes, got {self.scrub!r}")

    def _check_choice(self, name: str, allowed: tuple[str, ...]) -> None:
        if getattr(self, name) not in allowed:
            raise ValueError(
                f"{name}={getattr(self, name)!r} is unknown: choose of {', '.join(allowed)}"
            )

    @property
    def wants_aroma_image(self) -> bool:
        """Whether the image has to be the one that ICA-AROMA has cleaned."""
        return "ica_aroma" in self.strategy and self.ica_aroma == "full"

    def of_table(self, path: str | os.PathLike[str]) -> tuple[pd.DataFrame, np.ndarray | None]:
        """Confounds of a table of fMRIPrep, and the volumes that are kept (None: all).

        Raises
        ------
        OSError, ValueError
            If the table cannot be read, or lacks what the strategy needs.
        """
        table = read_table(os.fspath(path)).rename(columns=str)
        names: list[str] = []
        for component in self.strategy:
            names += self._columns(component, table, Path(path))
        left_out = np.zeros(len(table), dtype=bool)
        unsteady = [name for name in _names(table) if "non_steady_state" in name]
        if unsteady:
            left_out |= (table[unsteady].to_numpy(np.float64) != 0).any(axis=1)
        if "scrub" in self.strategy:
            left_out |= self._moved(table, Path(path))
        kept = np.flatnonzero(~left_out) if left_out.any() else None
        if kept is not None and not len(kept):
            raise ValueError(
                f"{path}: the strategy leaves out all volumes: give a larger fd_threshold or "
                "std_dvars_threshold"
            )
        found = with_first_row(table[sorted(set(names))].astype(np.float64))
        if self.demean and len(found.columns):
            found = found - (found if kept is None else found.iloc[kept]).mean(axis=0)
        return found, kept

    def _columns(self, component: str, table: pd.DataFrame, path: Path) -> list[str]:
        if component in _BASES:
            terms = _TERMS[getattr(self, component)]
            wanted = [f"{base}{term}" for base in _BASES[component] for term in terms]
        elif component == "high_pass":
            return [name for name in _names(table) if "cosine" in name]
        elif component == "ica_aroma":
            found = [name for name in _names(table) if "aroma" in name]
            if self.ica_aroma == "basic" and not found:
                raise ValueError(f"{path} has no components of ICA-AROMA: leave out 'ica_aroma'")
            return found if self.ica_aroma == "basic" else []
        elif component == "compcor":
            wanted = self._components(table, path)
        else:
            return []
        missing = [name for name in wanted if name not in table]
        if missing or not wanted:
            raise ValueError(
                f"{path} lacks what the strategy {component!r} needs "
                f"({', '.join(missing[:4]) or 'its components'}{', ...' if missing[4:] else ''}): "
                "leave it out, or choose fewer terms (motion=basic)"
            )
        return wanted

    def _components(self, table: pd.DataFrame, path: Path) -> list[str]:
        """Names of CompCor's components, the first of each mask."""
        found: list[str] = []
        if "temporal" in self.compcor:
            found += self._first([name for name in _names(table) if name.startswith("t_comp_cor_")])
        if "anat" not in self.compcor:
            return found
        about = _beside(path)
        masks = ("combined",) if self.compcor.endswith("combined") else ("WM", "CSF")
        for mask in masks:
            anatomical = [name for name in _names(table) if name.startswith("a_comp_cor_")]
            found += self._first([n for n in anatomical if about.get(n, {}).get("Mask") == mask])
        if masks != ("combined",):
            for prefix in ("w_comp_cor_", "c_comp_cor_"):  # (of fMRIPrep since 20.2)
                found += self._first([name for name in _names(table) if name.startswith(prefix)])
        return found

    def _first(self, names: list[str]) -> list[str]:
        ordered = sorted(names, key=lambda name: int(name.rpartition("_")[2]))
        return ordered if self.n_compcor == "all" else ordered[: self.n_compcor]

    def _moved(self, table: pd.DataFrame, path: Path) -> np.ndarray:
        """Which volumes moved too much, and which lie in short runs between such."""
        moved = np.zeros(len(table), dtype=bool)
        for name, limit in (
            ("framewise_displacement", self.fd_threshold),
            ("std_dvars", self.std_dvars_threshold),
        ):
            if name not in table:
                raise ValueError(f"{path} has no column {name!r}, by which to scrub: leave it out")
            moved |= table[name].to_numpy(np.float64) > limit  # (NaN of the first volume is not)
        if not moved.any():
            return moved
        edges = np.flatnonzero(np.diff(np.r_[True, moved, True].astype(int)))
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            if stop - start < self.scrub:
                moved[start:stop] = True
        return moved


def load_confounds(
    img_files: Any, strategy: Sequence[str] = ("motion", "high_pass", "wm_csf"), **options: Any
) -> tuple[Any, Any]:
    """Confounds that fMRIPrep keeps beside images, as `nilearn.interfaces.fmriprep` loads them.

    Parameters
    ----------
    img_files : path or list of path
        Preprocessed images, named as in BIDS.
    strategy : sequence of str
        Components (see `ConfoundStrategy`).
    **options
        Its other parameters: ``motion="full"``, ``scrub=5``, ``fd_threshold=0.5``,
        ``std_dvars_threshold=1.5``, ``wm_csf="basic"``, ``global_signal="basic"``,
        ``compcor="anat_combined"``, ``n_compcor="all"``, ``ica_aroma="full"``, ``demean=True``.

    Returns
    -------
    confounds : pandas.DataFrame, or list of them
        (volumes, confounds), columns in the order of their names. Differences have no value in the
        first volume: they get that of the second.
    sample_mask : numpy.ndarray of int or None, or list of them
        Volumes that are kept; None: all. Volumes that fMRIPrep calls non-steady, and with
        ``"scrub"`` those with too much motion, are left out.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no table, or it lacks what the strategy needs.

    Notes
    -----
    Unlike nilearn's, components of CompCor are known by the names of columns, wherever their
    numbers begin. Those of TEDANA are not read: give its table with ``confounds=``.

    Examples
    --------
    >>> from penstock.fmri import load_confounds
    >>> table, kept = load_confounds(
    ...     "sub-01_task-rest_desc-preproc_bold.nii.gz", ["motion", "scrub"], motion="basic"
    ... )  # doctest: +SKIP
    """
    chosen = ConfoundStrategy(tuple(strategy), **options)
    if isinstance(img_files, list | tuple):
        each = [of_image(image, chosen) for image in img_files]
        return [table for table, _ in each], [kept for _, kept in each]
    return of_image(img_files, chosen)


def of_image(
    image: str | os.PathLike[str], strategy: ConfoundStrategy
) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Confounds of the table beside an image, and the volumes that are kept (None: all)."""
    if strategy.wants_aroma_image and AROMA_IMAGE not in os.path.basename(os.fspath(image)):
        raise ValueError(_not_of_aroma(image))
    return strategy.of_table(find_confounds(image))


def chosen_confounds(
    tables: Any,
    strategy: ConfoundStrategy,
    source: str,
    n_times: int,
    sample_mask: Any = None,
    runs: Any = None,
) -> tuple[np.ndarray | None, tuple[str, ...], np.ndarray | None]:
    """Values and names of the confounds of a series, and the volumes that are kept (None: all).

    Parameters
    ----------
    tables : path, or list of one path
        The table of fMRIPrep.
    strategy : ConfoundStrategy
    source : str
        The image, for the strategies that need a certain one.
    n_times : int
        Volumes of the series.
    sample_mask, runs
        Volumes that are kept anyhow (see `kept_volumes`).
    """
    paths = [tables] if isinstance(tables, str | os.PathLike) else list(tables)
    if len(paths) != 1:
        raise ValueError(
            f"a strategy chooses from one table of fMRIPrep, and {len(paths)} are given"
        )
    if strategy.wants_aroma_image and AROMA_IMAGE not in os.path.basename(source):
        raise ValueError(_not_of_aroma(source))
    frame, kept = strategy.of_table(paths[0])
    if len(frame) != n_times and len(frame.columns):
        raise ValueError(wrong_length(f"{paths[0]} has", len(frame), n_times))
    if sample_mask is not None:
        given = kept_volumes(sample_mask, n_times, runs)
        kept = given if kept is None else np.intersect1d(given, kept)
        if not len(kept):
            raise ValueError(f"{paths[0]}: the strategy and sample_mask together keep no volume")
    values = frame.to_numpy(np.float64) if len(frame.columns) else None
    return values, tuple(map(str, frame.columns)), kept


def _not_of_aroma(image: Any) -> str:
    return (
        f"ica_aroma='full' means the image that ICA-AROMA has cleaned ({AROMA_IMAGE}), and "
        f"{image or 'this one'} is another: take that one, or 'ica_aroma=basic'"
    )


def with_first_row(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the first volume of differences filled by that of the second.

    A difference to the volume before has no value (``n/a``) in the first one.
    """
    if len(table) < 2:
        return table
    empty = table.iloc[0].isna().to_numpy() & table.iloc[1].notna().to_numpy()
    if not empty.any():
        return table
    filled = table.copy()
    filled.iloc[0, np.flatnonzero(empty)] = table.iloc[1, np.flatnonzero(empty)]
    return filled


def _names(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table.columns]


def _beside(path: Path) -> Mapping[str, Any]:
    """What the JSON file beside a table says of its columns."""
    file = path.with_suffix(".json")
    try:
        found = from_json(read_text(file))
    except OSError as error:
        raise ValueError(
            f"{file} is missing, which says of which mask the components of CompCor are: choose "
            "'compcor=temporal', or leave it out"
        ) from error
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: mend it, or leave out 'compcor'") from error
    return found if isinstance(found, dict) else {}
