"""Numbers in half precision: the formats themselves, and arithmetic in them, exact to the last bit."""
