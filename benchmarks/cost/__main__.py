"""`python -m benchmarks.cost SUITE`."""

from benchmarks.cost.runner import main

if __name__ == "__main__":
    main()
