"""What makes the tables and figures of docs/results from finished runs."""
