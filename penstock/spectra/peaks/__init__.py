"""Peaks of spectra by continuous wavelet transform."""
