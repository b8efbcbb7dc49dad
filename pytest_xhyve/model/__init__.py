"""Plain data and the values that people write: what all other rooms speak of."""
