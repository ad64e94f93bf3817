"""Which layers stay in float32: the search, and the simulators it asks."""
