"""``tfhalf numerics``: what a pipeline's numbers do in half precision, and what should stay in float32."""
