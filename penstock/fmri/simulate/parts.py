"""What is in a region of a simulated image: time courses, spatial patterns, and their sum."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from penstock.dataset import Indexer, indexer_length
from penstock.fmri.images.images import VoxelGrid
from penstock.fmri.simulate.phantom import (
    BASELINE,
    FmriStream,
    along,
    baseline_image,
    blob,
    centred_grid,
    checked_shape,
    spread_points,
    unit_axes,
)
from penstock.memory.buffers import new_array, scratch_buffer
from penstock.random_streams import random_generator

_NETWORK_BAND, _DRIFT_BAND, _MOTION_BAND = (0.01, 0.1), (0.0, 0.005), (0.0, 0.03)
"""Frequencies of the time courses [Hz]."""
_NETWORK_PEAK, _SPIKE_SIZE = 0.015, 0.08
"""Networks at their strongest, and spikes, as fractions of the baseline (rms)."""
_HEAD_RADIUS = 50.0
"""Where a rotation moves the head as far as a translation [mm] (Power et al. 2012)."""


@dataclass(frozen=True)
class SimulatedImage:
    """The parameters of `simulate_fmri`, and what is in a region of it."""

    shape: tuple[int, int, int]
    n_volumes: int
    t_r: float
    voxel_size: float
    n_networks: int
    noise: float
    drift: float
    motion: float
    spikes: float
    background: float
    dtype: str
    seed: int

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "dtype":
                value = np.dtype(value).name
            elif field.name == "shape":
                value = checked_shape(value)
            elif field.type == "int" and value != int(value):
                raise ValueError(f"{field.name} must be a whole number, got {value!r}")
            else:
                value = {"int": int, "float": float}[str(field.type)](value)
            # plain values only: they are hashed, pickled and written to files
            object.__setattr__(self, field.name, value)
        for name in ("n_volumes", "t_r", "voxel_size"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        for name in ("n_networks", "noise", "drift", "motion", "spikes", "background", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)!r}")
        if self.spikes > 1:
            raise ValueError(f"spikes must be a fraction of the volumes, got {self.spikes!r}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype}")

    @property
    def grid(self) -> VoxelGrid:
        """Where the voxels lie."""
        return centred_grid(self.shape, self.voxel_size)

    def read(self, x: Indexer, y: Indexer, z: Indexer, times: Indexer) -> np.ndarray:
        """A region, as `penstock.dataset.LazyArray` asks for it: x varies fastest in memory."""
        volumes = np.arange(self.n_volumes)[times]
        lengths = tuple(indexer_length(indexer) for indexer in (z, y, x))
        out = new_array((len(volumes), *lengths), self.dtype)
        if out.size:
            part = _patterns(self).part(z, y, x)
            for volume, number in zip(out, volumes, strict=True):
                self._fill(volume.reshape(-1), part, int(number))
        return out.transpose(3, 2, 1, 0)

    def _fill(self, out: np.ndarray, part: _Part, volume: int) -> None:
        """Write one volume's values of a part of the image."""
        courses, dtype = time_courses(self), np.dtype(self.dtype)
        out.fill(0)
        if self.background:
            level = dtype.type(self.background / 100 * BASELINE)
            drawn = self._normal(FmriStream.BACKGROUND, volume, int(part.voxels[-1]) + 1)
            out[:] = np.abs(drawn[part.voxels]) * level
        if not len(part.where):
            return
        values = scratch_buffer("simulate values", (len(part.where),), dtype)
        product = scratch_buffer("simulate product", values.shape, dtype)
        drawn = self._normal(FmriStream.NOISE, volume, part.n_drawn)
        drawn = drawn if part.which is None else drawn.take(part.which)
        # element by element and in one order, so that a voxel has the same bits in every region
        np.multiply(drawn, dtype.type(self.noise / 100 * BASELINE), out=values)
        values += part.baseline
        for pattern, weight in zip(part.dense, courses.dense[volume], strict=True):
            if weight:
                values += np.multiply(pattern, dtype.type(weight), out=product)
        for (at, weights), course in zip(part.networks, courses.networks[volume], strict=True):
            values[at] += weights * dtype.type(course)
        out[part.where] = values

    def _normal(self, stream: FmriStream, volume: int, size: int) -> np.ndarray:
        """The first normal numbers of a volume's stream, always in single precision."""
        drawn = scratch_buffer("simulate drawn", (size,), np.float32)
        generator = random_generator(self.seed, stream, 0, volume)
        return generator.standard_normal(dtype=np.float32, out=drawn)


# ---------------------------------------------------------------------- time courses


@dataclass(frozen=True)
class Courses:
    """What changes with time: small, one row a volume."""

    networks: np.ndarray
    """(volume, network), unit variance."""
    motion: np.ndarray
    """(volume, 6) [mm, rad]."""
    spikes: np.ndarray
    """(volume,), fraction of the baseline; 0 in volumes that are not spoilt."""
    dense: np.ndarray
    """(volume, pattern): drifts, movements and spikes, in the order of the dense patterns."""


@lru_cache(maxsize=4)
def time_courses(simulation: SimulatedImage) -> Courses:
    """The time courses of a simulation, kept for the last few."""
    n, t_r, seed = simulation.n_volumes, simulation.t_r, simulation.seed
    rng = random_generator(seed, FmriStream.COURSES, 0, 0)
    networks = _band_limited(rng, simulation.n_networks, n, t_r, _NETWORK_BAND)
    rng = random_generator(seed, FmriStream.DRIFT, 0, 0)
    slow = _band_limited(rng, 1, n, t_r, _DRIFT_BAND)
    ramp = np.linspace(-1, 1, n)[:, None] * math.sqrt(3)  # unit variance as well
    drifts = np.hstack([ramp, slow]) * simulation.drift / 100 / math.sqrt(2)
    rng = random_generator(seed, FmriStream.MOTION, 0, 0)
    motion = _band_limited(rng, 6, n, t_r, _MOTION_BAND) * simulation.motion
    motion[:, 3:] /= _HEAD_RADIUS
    rng = random_generator(seed, FmriStream.SPIKES, 0, 0)
    spoilt = rng.random(n) < simulation.spikes
    spikes = np.where(spoilt, _SPIKE_SIZE * rng.choice([-1, 1], n) * rng.uniform(0.7, 1.3, n), 0.0)
    return Courses(networks, motion, spikes, np.hstack([drifts, motion, spikes[:, None]]))


def _band_limited(
    rng: np.random.Generator, n_courses: int, n: int, t_r: float, band: tuple[float, float]
) -> np.ndarray:
    """Random courses (n, n_courses) of unit variance with no power outside of a band [Hz].

    Where a run is too short to hold a frequency of the band, its lowest one is taken instead.
    """
    frequencies = np.fft.rfftfreq(n, t_r)
    inside = (frequencies >= band[0]) & (frequencies <= band[1]) & (frequencies > 0)
    if not inside.any():
        inside = frequencies == frequencies[1:2]
    spectrum = rng.standard_normal((n_courses, len(frequencies), 2)) @ [1, 1j]
    courses = np.fft.irfft(np.where(inside, spectrum, 0), n, axis=1).T if n > 1 else None
    if courses is None or not inside.any():
        return np.zeros((n, n_courses))
    spread = courses.std(axis=0)
    return courses / np.where(spread > 0, spread, 1)


# ---------------------------------------------------------------------- patterns

N_PATTERNS = 9
"""Patterns that reach over the whole brain: two drifts, six movements, spikes."""


@dataclass(frozen=True)
class _Part:
    """The brain's voxels in a part of the image, and what they need."""

    voxels: np.ndarray
    """Places of all voxels of the part in the whole image, z slowest."""
    where: np.ndarray
    """Places of the brain's voxels among those."""
    which: np.ndarray | None
    """Their numbers among the brain's voxels; None: all of them."""
    n_drawn: int
    """Random numbers to draw until the last of them."""
    baseline: np.ndarray
    dense: np.ndarray
    """(pattern, voxel)."""
    networks: tuple[tuple[np.ndarray, np.ndarray], ...]
    """Places among the brain's voxels of the part, and weights."""


@dataclass(frozen=True)
class _Patterns:
    """What does not change with time, for the voxels of the brain in the order z, y, x."""

    numbers: np.ndarray
    """(z, y, x): number of the brain's voxel, -1 outside."""
    whole: _Part

    def part(self, z: Indexer, y: Indexer, x: Indexer) -> _Part:
        """What a part of the image needs."""
        picks = [np.arange(n)[i] for n, i in zip(self.numbers.shape, (z, y, x), strict=True)]
        if tuple(map(len, picks)) == self.numbers.shape:
            return self.whole
        grid = np.ix_(*picks)
        voxels = np.ravel_multi_index(grid, self.numbers.shape).reshape(-1)
        numbers = self.numbers[grid].reshape(-1)
        where = np.flatnonzero(numbers >= 0)
        which = numbers[where]
        new = np.full(len(self.whole.where), -1, np.int32)
        new[which] = np.arange(len(which))
        networks = []
        for at, weights in self.whole.networks:
            here = new[at] >= 0
            networks.append((new[at[here]], weights[here]))
        n_drawn = int(which[-1]) + 1 if len(which) else 0
        baseline, dense = self.whole.baseline[which], self.whole.dense[:, which]
        return _Part(voxels, where, which, n_drawn, baseline, dense, tuple(networks))


_making = threading.Lock()


def _patterns(simulation: SimulatedImage) -> _Patterns:
    with _making:  # made once, not once a thread
        return _make_patterns(simulation)


@lru_cache(maxsize=2)
def _make_patterns(simulation: SimulatedImage) -> _Patterns:
    dtype, shape = np.dtype(simulation.dtype), simulation.shape
    image = baseline_image(shape)
    brain = np.flatnonzero(image)
    numbers = np.full(image.size, -1, np.int32)
    numbers[brain] = np.arange(len(brain))
    baseline = image.reshape(-1)[brain].astype(dtype)

    dense = np.empty((N_PATTERNS, len(brain)), dtype)
    for row, field in enumerate(_smooth_fields(simulation)):
        values = field.reshape(-1)[brain]
        dense[row] = values / np.sqrt(np.mean(values**2)) * baseline
    x, y, z = (along(axis, shape, simulation.voxel_size) for axis in range(3))
    for row, axis in enumerate((2, 1, 0), start=2):
        # what a shift of the head along an axis brings into each voxel
        slope = np.gradient(image, simulation.voxel_size, axis=axis)
        dense[row] = -slope.reshape(-1)[brain]
    shift_x, shift_y, shift_z = dense[2:5]
    places = np.unravel_index(brain, image.shape)
    x, y, z = x[places[2]], y[places[1]], z[places[0]]
    dense[5] = y * shift_z - z * shift_y
    dense[6] = z * shift_x - x * shift_z
    dense[7] = x * shift_y - y * shift_x
    dense[8] = baseline * (0.75 + 0.5 * places[0] / image.shape[0])

    networks = []
    for field in network_fields(simulation):
        weights = field.reshape(-1)[brain]
        at = np.flatnonzero(weights)
        networks.append((at, (_NETWORK_PEAK * weights[at] * baseline[at]).astype(dtype)))
    whole = _Part(np.arange(image.size), brain, None, len(brain), baseline, dense, tuple(networks))
    return _Patterns(numbers.reshape(image.shape), whole)


def _smooth_fields(simulation: SimulatedImage) -> Iterator[np.ndarray]:
    """Two smooth patterns (z, y, x): how much of each drift a voxel has."""
    rng = random_generator(simulation.seed, FmriStream.DRIFT, 0, 1)
    x, y, z = unit_axes(simulation.shape)
    for a, b, c in rng.uniform(0, 2 * np.pi, (2, 3)).astype(np.float32):
        yield np.sin(2 * x + a) + np.sin(2 * y + b) + np.sin(2 * z + c)


def network_fields(simulation: SimulatedImage) -> Iterator[np.ndarray]:
    """Blobs (z, y, x) with peaks of 1, exactly 0 beyond their radius and outside of the brain."""
    rng = random_generator(simulation.seed, FmriStream.NETWORKS, 0, 0)
    x, y, z = unit_axes(simulation.shape)
    for centre in spread_points(rng, simulation.n_networks, 0.72):
        # the same place in both hemispheres
        squares = (np.abs(x) - abs(centre[0])) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
        yield blob(squares, 0.33)
