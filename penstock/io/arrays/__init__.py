"""Arrays in files: NumPy, MATLAB, and whatever lies in a file in one piece."""
