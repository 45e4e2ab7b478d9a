"""What prepares data sets for the runs of docs/results."""
