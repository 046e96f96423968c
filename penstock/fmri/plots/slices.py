"""Planes through images in world coordinates, whatever the order and direction of their axes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.fmri.images.images import SpatialImage, voxel_sizes

CHUNK = 1 << 20
"""Voxels whose places are computed at once."""


@dataclass(frozen=True)
class Box:
    """A box in the world [mm], and the pixels that planes through it are drawn with."""

    low: np.ndarray
    """Centres of the first pixels along x, y and z."""
    high: np.ndarray
    """Centres of the last ones."""
    step: np.ndarray
    """Edges of the pixels along x, y and z."""

    @classmethod
    def around(cls, image: SpatialImage, inside: np.ndarray, margin: float = 0.0) -> Box:
        """The box around some voxels, with pixels of their size.

        Where the axes of the image are those of the world, in any order and direction, pixels are
        voxels; otherwise each axis of the world takes the size from the nearest axis of the image.
        """
        sizes = np.array(voxel_sizes(image.affine))
        step = sizes[np.argmax(np.abs(image.affine[:3, :3] / sizes), axis=1)]
        corners = np.array(list(itertools.product(*((0, n - 1) for n in image.shape[:3]))))
        origin = world(image, corners).min(axis=0)
        low, high = np.full(3, np.inf), np.full(3, -np.inf)
        for places in _places(image, inside):
            low, high = np.minimum(low, places.min(axis=0)), np.maximum(high, places.max(axis=0))
        if not np.isfinite(low).all():  # (nothing inside: all of it)
            low, high = origin, world(image, corners).max(axis=0)
        first = np.floor((low - margin - origin) / step + 1e-6)
        last = np.ceil((high + margin - origin) / step - 1e-6)
        return cls(origin + first * step, origin + last * step, step)

    @classmethod
    def union(cls, boxes: Sequence[Box]) -> Box:
        """The box around boxes, with the pixels of the first one."""
        first = boxes[0]
        low = np.min([box.low for box in boxes], axis=0) - first.low
        high = np.max([box.high for box in boxes], axis=0) - first.low
        step = first.step
        return cls(
            first.low + np.floor(low / step + 1e-6) * step,
            first.low + np.ceil(high / step - 1e-6) * step,
            step,
        )

    def centres(self, axis: int) -> np.ndarray:
        """Centres of the pixels along an axis of the world [mm]."""
        return self.low[axis] + self.step[axis] * np.arange(self.count(axis))

    def count(self, axis: int) -> int:
        """Pixels along an axis of the world."""
        return round((self.high[axis] - self.low[axis]) / self.step[axis]) + 1

    def extent(self, axis: int) -> tuple[float, float]:
        """Borders of the box along an axis of the world [mm]."""
        half = self.step[axis] / 2
        return float(self.low[axis] - half), float(self.high[axis] + half)

    def nearest(self, axis: int, coordinate: float) -> float:
        """The plane of pixels nearest to a coordinate [mm]."""
        # (half way between two planes the upper one, however the image is stored)
        number = np.floor((coordinate - self.low[axis]) / self.step[axis] + 0.5 + 1e-9)
        return float(self.centres(axis)[int(np.clip(number, 0, self.count(axis) - 1))])


def world(image: SpatialImage, voxels: np.ndarray) -> np.ndarray:
    """World coordinates (n, 3) [mm] of voxels (n, 3)."""
    return voxels @ image.affine[:3, :3].T + image.affine[:3, 3]


def _places(image: SpatialImage, inside: np.ndarray) -> Iterator[np.ndarray]:
    """World coordinates of the voxels that are True, a piece at a time."""
    flat = np.flatnonzero(inside)
    for start in range(0, len(flat), CHUNK):
        voxels = np.unravel_index(flat[start : start + CHUNK], inside.shape)
        yield world(image, np.stack(voxels, axis=1))


def plane(image: SpatialImage, box: Box, axis: int, coordinate: float) -> np.ndarray:
    """Values on a plane across an axis of the world, (vertical, horizontal, ...).

    Of the two other axes the first one is horizontal. Each pixel has the value of the voxel that it
    lies in; NaN (0 in whole numbers) outside of the image.
    """
    across = [other for other in range(3) if other != axis]
    points = np.empty((box.count(across[1]), box.count(across[0]), 3))
    points[..., axis] = coordinate
    points[..., across[0]] = box.centres(across[0])
    points[..., across[1]] = box.centres(across[1])[:, None]
    inverse = np.linalg.inv(image.affine)
    # (half way between two voxels the one above in the world, however the image is stored)
    points += 1e-5 * box.step
    voxels = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.int64)
    shape = np.array(image.shape[:3])
    inside = ((voxels >= 0) & (voxels < shape)).all(axis=-1)
    x, y, z = np.moveaxis(np.clip(voxels, 0, shape - 1), -1, 0)
    values = image.data[x, y, z]
    values[~inside] = np.nan if values.dtype.kind == "f" else 0
    return values


def best_cuts(box: Box, regions: Sequence[tuple[SpatialImage, np.ndarray]]) -> np.ndarray:
    """Planes (3,) [mm] on which most is seen of most regions.

    Parameters
    ----------
    box : Box
    regions : sequence of (SpatialImage, ndarray)
        Images, with the number of each voxel's region (x, y, z), -1 where there is none.
    """
    scores = [np.zeros(box.count(axis)) for axis in range(3)]
    for image, numbers in regions:
        flat = numbers.reshape(-1)
        there = flat[flat >= 0]
        n = int(there.max(initial=-1)) + 1
        counts = [np.zeros((n, box.count(axis))) for axis in range(3)]
        done = 0
        for places in _places(image, numbers >= 0):
            own = there[done : done + len(places)]
            done += len(places)
            index = np.floor((places - box.low) / box.step + 0.5 + 1e-9).astype(int)
            for axis, count in enumerate(counts):
                at = np.clip(index[:, axis], 0, count.shape[1] - 1)
                count += np.bincount(own * count.shape[1] + at, minlength=count.size).reshape(
                    count.shape
                )
        for score, count in zip(scores, counts, strict=True):
            score += (count / np.maximum(count.max(axis=1, keepdims=True), 1)).sum(axis=0)
    cuts = []
    for axis, score in enumerate(scores):
        # several planes may show as much: the one in the middle of them
        best = np.flatnonzero(score >= score.max() * (1 - 1e-9))
        cuts.append(box.centres(axis)[best[(len(best) - 1) // 2]])
    return np.array(cuts)


def outlines(numbers: np.ndarray, box: Box, axis: int) -> np.ndarray:
    """Borders between unequal pixels of a plane, as lines (n, 2 points, 2 coordinates) [mm]."""
    across = [other for other in range(3) if other != axis]
    (left, _), (bottom, _) = (box.extent(other) for other in across)
    padded = np.pad(numbers, 1, mode="edge")
    rows, columns = np.nonzero(padded[:, 1:] != padded[:, :-1])
    upright = np.stack([[columns, rows - 1], [columns, rows]], axis=0)
    rows, columns = np.nonzero(padded[1:] != padded[:-1])
    level = np.stack([[columns - 1, rows], [columns, rows]], axis=0)
    lines = np.concatenate([upright, level], axis=2).transpose(2, 0, 1) * box.step[across]
    return lines + np.array([left, bottom])


def distinct_colors(planes: Sequence[np.ndarray], n_regions: int, n_colors: int) -> np.ndarray:
    """A colour number for each region such that neighbours on the planes differ where possible.

    Planes hold numbers of regions, -1 where there is none. Each region in turn takes the colour
    that its neighbours use least, of those the one that is used least at all.
    """
    pairs = np.zeros((0, 2), int)
    for numbers in planes:
        for shift in (1, 2):  # (a thin gap does not part regions to the eye)
            for a, b in (
                (numbers[shift:], numbers[:-shift]),
                (numbers[:, shift:], numbers[:, :-shift]),
            ):
                touching = (a != b) & (a >= 0) & (b >= 0)
                pairs = np.vstack([pairs, np.stack([a[touching], b[touching]], axis=1)])
    pairs = np.unique(np.vstack([pairs, pairs[:, ::-1]]), axis=0)
    starts = np.searchsorted(pairs[:, 0], np.arange(n_regions + 1))
    chosen = np.full(n_regions, -1)
    total = np.zeros(n_colors)
    for region in range(n_regions):
        around = chosen[pairs[starts[region] : starts[region + 1], 1]]
        near = np.bincount(around[around >= 0], minlength=n_colors)
        chosen[region] = np.lexsort((np.arange(n_colors), total, near))[0]
        total[chosen[region]] += 1
    return chosen
