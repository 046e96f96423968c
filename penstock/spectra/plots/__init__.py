"""Maps of results, and the spectrum at a position."""
