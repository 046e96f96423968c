"""The gradient artifact of an fMRI scanner: gradients, what they induce, how it drifts."""

from __future__ import annotations

import math
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from penstock.random_streams import random_generator

if TYPE_CHECKING:
    from penstock.eeg.simulate.recordings import SimulatedRecording


class EegStream(IntEnum):
    """Independent streams: no option changes what another one draws."""

    WHITE = 0
    POSTERIOR = 1
    CENTRAL = 2
    BLINKS = 3
    BEATS = 4
    VOLUMES = 5
    CHANNELS = 6
    AXES = 7


def padding(simulation: SimulatedRecording) -> float:
    """Time before and after a volume in which the anti-alias filter rings [s]."""
    return 30 / (0.2 * simulation.sampling_frequency)


def mixture(simulation: SimulatedRecording, time: float) -> np.ndarray:
    """How much of each gradient axis each channel picks up at a time (channel, 3) [uV]."""
    fixed, phase, rate = _mixture_terms(simulation)
    change = np.sin(2 * np.pi * (phase + rate * time)).sum(axis=0)  # rms 1: two terms
    size = np.linalg.norm(fixed, axis=1, keepdims=True)
    return (fixed + simulation.shape_drift * size * change).astype(simulation.dtype)


@lru_cache(maxsize=8)
def _mixture_terms(simulation: SimulatedRecording) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n_channels = len(simulation.channel_names)
    generators = [
        random_generator(simulation.seed, EegStream.AXES, number, 0) for number in range(n_channels)
    ]
    normal = np.array([generator.standard_normal(3) for generator in generators])
    uniform = np.array([generator.random((2, 2, 3)) for generator in generators])
    phase, period = uniform[:, 0].swapaxes(0, 1), 180.0 + 720.0 * uniform[:, 1].swapaxes(0, 1)
    return simulation.gradient_amplitude / math.sqrt(3) * normal, phase, 1 / period


@lru_cache(maxsize=8)
def template(simulation: SimulatedRecording) -> tuple[np.ndarray, int]:
    """One volume's artifact by gradient axis: Fourier series (3, bins) and period [samples].

    The volume starts after `padding`; silence fills the rest of the period. A series holds the
    waveform at any fraction of a sample: a shift by d samples turns bin k by -2 pi k d / period.
    """
    frequency = simulation.sampling_frequency
    size, n_fine = template_sizes(simulation)
    # drawn on the scanner's clock, then cut to the band
    step = size / n_fine / frequency / (1 + simulation.clock_drift * 1e-6)
    time = np.arange(n_fine) * step - padding(simulation)
    frequencies = np.arange(n_fine // 2 + 1) * (frequency / size)
    # a roll-off so smooth that its ringing is over within the padding
    position = np.clip((frequencies / (0.2 * frequency) - 0.6) / 0.4, 0, 1)
    position = position[: np.count_nonzero(position < 1)]
    roll_off = np.cos(np.pi / 2 * np.sin(np.pi / 2 * position) ** 2) ** 2
    series = np.empty((3, len(roll_off)), complex)
    for axis, (knots, heights) in enumerate(_gradients(simulation)):
        induced = np.diff(np.interp(time, knots, heights), append=0.0)
        series[axis] = np.fft.rfft(induced)[: len(roll_off)] * roll_off
        series[axis] /= np.abs(np.fft.irfft(series[axis], n_fine)).max() * n_fine / size
    return series, size


def template_sizes(simulation: SimulatedRecording) -> tuple[int, int]:
    """Samples of a template's period, and points it is drawn at: fine enough for its ramps."""
    from scipy import fft

    period = simulation.volume_interval + 2 * padding(simulation)
    size = math.ceil(period * simulation.sampling_frequency) + 1
    fine = math.ceil(period * max(20e3, 4 * simulation.sampling_frequency))
    return fft.next_fast_len(size, real=True), fft.next_fast_len(fine, real=True)


def _gradients(simulation: SimulatedRecording) -> list[tuple[np.ndarray, np.ndarray]]:
    """Gradient waveforms of a volume of slices, for x, y and z: knots [s] and heights."""
    slice_time = simulation.repetition_time / simulation.n_slices
    # echoes every 0.65 ms or so: the readout rings near 770 Hz
    n_echoes = max(2, round(0.55 * slice_time / 0.65e-3))
    echo = 0.55 * slice_time / n_echoes
    ramp = min(0.2e-3, 0.2 * echo, 0.01 * slice_time)
    axes: list[list[tuple[float, float, float]]] = [[], [], []]  # (start, stop, height)
    for number in range(simulation.n_slices):
        at = number * slice_time
        encode = 1 + 0.05 * math.sin(2 * math.pi * number / simulation.n_slices)
        x, y, z = axes
        for axis, height in zip(axes, (0.5, 0.6, 0.9), strict=True):  # fat saturation's spoilers
            axis.append((at + 0.03 * slice_time, at + 0.07 * slice_time, height * encode))
        z.append((at + 0.11 * slice_time, at + 0.18 * slice_time, 0.8))
        z.append((at + 0.19 * slice_time, at + 0.225 * slice_time, -0.8))
        x.append((at + 0.24 * slice_time, at + 0.26 * slice_time, -0.5))
        y.append((at + 0.24 * slice_time, at + 0.27 * slice_time, -0.7))
        for index in range(n_echoes):
            begin = at + 0.28 * slice_time + index * echo
            x.append((begin, begin + echo, 0.5 if index % 2 == 0 else -0.5))
            y.append((begin + 0.75 * echo, begin + 1.25 * echo, 0.15))
        z.append((at + 0.86 * slice_time, at + 0.92 * slice_time, 1.0))
    waveforms = []
    for pulses in axes:
        start, stop, height = np.array(sorted(pulses)).T
        zero = np.zeros_like(height)
        knots = np.stack([start, start + ramp, stop - ramp, stop], axis=1).ravel()
        waveforms.append((knots, np.stack([zero, height, height, zero], axis=1).ravel()))
    return waveforms
