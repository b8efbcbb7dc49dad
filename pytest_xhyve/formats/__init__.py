"""File formats and wire formats: pure functions between bytes and data."""
