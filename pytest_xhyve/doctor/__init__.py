"""``pytest-xhyve doctor``: what keeps guests from running on this host, and what to do about it."""
