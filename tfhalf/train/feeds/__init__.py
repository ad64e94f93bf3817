"""Ways in which batches reach the compiled loop: resident on the device, or streamed."""
