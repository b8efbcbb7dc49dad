"""Images: what guests are cloned from, how they are found, built, checked and cloned."""
