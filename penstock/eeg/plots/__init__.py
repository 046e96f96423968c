"""Pictures of recordings: traces over time, and power spectra."""
