"""Templates: guests that have booted once and were saved with their memory, from which others are restored."""
