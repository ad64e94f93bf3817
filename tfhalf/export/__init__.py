"""``tfhalf export``: a trained pipeline or any Keras model as float16 artifacts."""
