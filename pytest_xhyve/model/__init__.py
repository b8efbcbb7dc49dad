"""Plain data and the parsing of values that users write. All other rooms use it."""
