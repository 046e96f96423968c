"""Several images of one run: the same volumes in other spaces, resolutions, steps or echoes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.io.bids.names import BidsName, parse_name

CHOICES = ("space", "res", "den", "desc", "echo", "part")
"""Entities of BIDS names in which images of one run may differ."""
ALL = "all"
NONE = "none"
"""What stands for images that do not have an entity; for spaces also fMRIPrep's word, "func"."""
IMAGE = re.compile(r"\.(nii|mgh|mgz)(\.(gz|bz2|xz|zst))?$", re.IGNORECASE)
"""What the names of images end in."""
_PLURAL = {"space": "spaces", "res": "resolutions", "den": "densities", "echo": "echoes"}


def check_choice(select: Mapping[str, Any] | None) -> dict[str, str]:
    """What is asked for, as texts; None is nothing.

    Raises
    ------
    ValueError
        If an entity is none of those that can be chosen.
    """
    chosen = {str(key): str(value) for key, value in (select or {}).items() if value is not None}
    unknown = sorted(set(chosen) - set(CHOICES))
    if unknown:
        raise ValueError(
            f"select={unknown[0]!r} is none of the entities that images of one run differ in: "
            f"{', '.join(CHOICES)}"
        )
    return chosen


def chosen_images(paths: Sequence[Path], select: Mapping[str, Any] | None = None) -> list[Path]:
    """Paths without the images that were not asked for; each run must be left with one image.

    Parameters
    ----------
    paths : sequence of pathlib.Path
        Recordings of any kind; only images with names of BIDS are looked at.
    select : mapping of str to str, optional
        Entity to value: ``{"space": "MNI152NLin2009cAsym", "res": "2"}``. ``"none"`` means images
        whose names lack the entity (for spaces also ``"func"``), ``"all"`` all of them.

    Raises
    ------
    ValueError
        If several images of a run are left, or none has what is asked for; it lists what there is.
    """
    wanted = check_choice(select)
    names = {path: name for path in paths if (name := _image_name(path)) is not None}
    for key, value in wanted.items():
        if value == ALL:
            continue
        left = {path: name for path, name in names.items() if _matches(name, key, value)}
        if names and not left:
            there = _listed({name.entities.get(key) for name in names.values()}, key)
            raise ValueError(
                f"none of {len(names)} images is of {key} {value!r}: there "
                f"{'is' if ' and ' not in there else 'are'} {there}"
            )
        paths = [path for path in paths if path in left or path not in names]
        names = left
    _check_single(names, {key for key, value in wanted.items() if value == ALL})
    return list(paths)


def _image_name(path: Path) -> BidsName | None:
    return parse_name(path) if IMAGE.search(path.name) else None


def _matches(name: BidsName, key: str, value: str) -> bool:
    found = name.entities.get(key)
    if found is None:
        return value == NONE or (key == "space" and value == "func")
    if found.isdecimal() and value.isdecimal():
        return int(found) == int(value)
    return found == value


def _check_single(names: Mapping[Path, BidsName], open_to_all: set[str]) -> None:
    """Raise a ValueError if images differ in nothing but what one has to choose between."""
    runs: dict[Any, list[BidsName]] = {}
    for path, name in names.items():
        entities = name.without(*(key for key in CHOICES if key not in open_to_all))
        kind = name.extension.lower().partition(".nii")[0]  # (.dtseries: other places, not volumes)
        key = (path.parent, tuple(entities.items()), name.suffix, kind)
        runs.setdefault(key, []).append(name)
    for (folder, entities, suffix, _), found in runs.items():
        if len(found) == 1:
            continue
        differing = {
            key: values
            for key in CHOICES
            if key not in open_to_all
            and len(values := {name.entities.get(key) for name in found}) > 1
        }
        if not differing:  # (the same name twice, compressed and not)
            continue
        run = "_".join([*(f"{key}-{value}" for key, value in entities), suffix])
        several = "; ".join(
            f"{_PLURAL.get(key, key)} {_listed(values, key)}" for key, values in differing.items()
        )
        first = next(iter(differing))
        raise ValueError(
            f"{folder} holds {len(found)} images of the run {run}, in the {several}: choose with "
            + " and ".join(f"--{key}" for key in differing)
            + f" (in Python select={{{first!r}: ...}}), '{ALL}' for all of them, or name one image"
        )


def _listed(values: Iterable[str | None], key: str) -> str:
    """Values for people, those without the entity last."""
    none = "func (no space in the name)" if key == "space" else f"{NONE} (no {key} in the name)"
    known = sorted(value for value in set(values) if value is not None)
    texts = [*known, *([none] if None in set(values) else [])]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
