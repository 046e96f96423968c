"""Running: recordings are opened, blocks computed, results finished, wherever the workers are."""
