"""All guests of one process: admission, start, end."""
