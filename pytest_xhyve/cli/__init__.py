"""The command line: pytest-xhyve."""
