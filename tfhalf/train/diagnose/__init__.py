"""Why training went wrong: values that are not finite, divergence, the loss scale."""
