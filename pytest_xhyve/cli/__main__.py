"""``python -m pytest_xhyve.cli``."""

from pytest_xhyve.cli.commands import main

if __name__ == "__main__":
    main()
