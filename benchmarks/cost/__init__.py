"""What this project's parts cost beside what a user would use instead. Cases are data; `runner` times all of them."""
