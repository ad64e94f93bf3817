"""TensorFlow graphs as data: frozen, decomposed, their constants read."""
