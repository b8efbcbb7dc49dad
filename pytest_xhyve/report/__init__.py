"""Turn a run's data into text for its report."""
