"""`python -m dynamick.cli`, for torchrun."""

from dynamick.cli.main import main

main()
