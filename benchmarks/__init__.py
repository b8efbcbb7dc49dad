"""What guests cost, measured against the floor and the peers in one run."""
