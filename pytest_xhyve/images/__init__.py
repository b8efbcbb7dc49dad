"""Images: find, build and check what guests are cloned from."""
