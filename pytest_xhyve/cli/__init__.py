"""The command ``pytest-xhyve``."""
