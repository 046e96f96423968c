"""Simulated band-excitation spectra: a resonance at every position, with noise."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def frequencies(n: int = 119) -> np.ndarray:
    """Drive frequencies [Hz]."""
    return np.linspace(286e3, 354e3, n)


def spectra(side: int = 128, n: int = 119, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Responses (side * side, n) complex64, and their true frequencies, qualities, amplitudes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    f0 = 320e3 + 6e3 * np.sin(3 * x + 2 * y) + 3e3 * np.cos(7 * y)
    quality = 60 + 25 * np.cos(4 * x)
    amplitude = 1e-4 * (1 + 0.5 * np.sin(5 * y))
    phase = np.where((x + 0.2 * np.sin(9 * y)) > 0.5, 0.0, np.pi)  # domains
    f = frequencies(n)
    f0, quality, amplitude, phase = (p.reshape(-1, 1) for p in (f0, quality, amplitude, phase))
    clean = amplitude * np.exp(1j * phase) * f0**2 / (f0**2 - f**2 + 1j * f * f0 / quality)
    noise = rng.normal(size=(2, *clean.shape)) * 2.5e-4
    values = (clean + noise[0] + 1j * noise[1]).astype(np.complex64)
    return values, np.hstack([f0, quality, amplitude])


if __name__ == "__main__":
    np.save(Path(sys.argv[1]), spectra()[0])
