"""Simulated functional MRI of any length, with known networks."""

from penstock.fmri.simulate.volumes import (
    simulate_fmri,
    simulated_atlas,
    simulated_brain_mask,
    simulated_maps,
    simulated_masks,
    simulated_networks,
)

__all__ = [
    "simulate_fmri",
    "simulated_atlas",
    "simulated_brain_mask",
    "simulated_maps",
    "simulated_masks",
    "simulated_networks",
]
