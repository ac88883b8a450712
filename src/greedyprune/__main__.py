"""`python -m greedyprune` is the same as `greedyprune`."""

from greedyprune.cli import main

if __name__ == "__main__":
    main()
