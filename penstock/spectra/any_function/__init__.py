"""Any function of a spectrum, at every position."""
