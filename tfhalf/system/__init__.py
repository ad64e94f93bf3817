"""The machine: its devices, TensorFlow's start, memory, bounded archives, pictures' places, the doctor."""
