"""EDF, EDF+ and BDF."""
