"""What a run folder keeps of training: itself, checkpoints, history, steps, plots."""
