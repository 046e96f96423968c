"""What the scanner does to EEG: its triggers, and the average artifact that is subtracted."""
