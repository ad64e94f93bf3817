"""A Keras model built anew in float16."""
