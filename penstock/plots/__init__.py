"""What the plots of all domains share."""
