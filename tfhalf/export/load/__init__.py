"""Model files and folders read safely: Keras 3, Keras 2, HDF5, SavedModel, weights."""
