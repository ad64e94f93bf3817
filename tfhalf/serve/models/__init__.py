"""The models that are served: the repository, its scan, versions, images."""
