"""``python -m oddstream.cli``."""

from oddstream.cli import main

if __name__ == "__main__":
    main()
