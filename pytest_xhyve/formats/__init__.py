"""File formats and wire formats, read and written without a host."""
