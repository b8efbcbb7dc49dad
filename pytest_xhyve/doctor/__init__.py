"""``pytest-xhyve doctor``: check whether this host can run guests, and give a fix for each problem."""
