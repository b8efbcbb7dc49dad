"""What stands behind the commands of `pytest_xhyve.cli` and is of no use to tests."""
