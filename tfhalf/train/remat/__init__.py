"""``train.remat``: layers whose activations are worked out again in the backward pass, in place of being kept."""
