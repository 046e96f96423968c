"""BIDS: names of files, and what belongs to a recording or an image."""
