"""Any Keras model to float16 artifacts: `tfhalf export` of what was not trained here."""
