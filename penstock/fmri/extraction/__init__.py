"""From volumes to signals of regions, and back."""
