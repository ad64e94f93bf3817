"""What an artifact holds, and whether it is really float16, by the file alone: ``tfhalf inspect``.

Files are taken as hostile until they are checked: sizes are bounded before anything is allocated, nothing is unpickled
or unpacked to a path, no code or graph of theirs is run, and neither TensorFlow nor Keras is imported.
"""
