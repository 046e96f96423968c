"""What an interrupted run left, and whether a result that is there is the one that is asked for."""
