"""The networks that guests are on, where the host provides them."""
