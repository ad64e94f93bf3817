"""What a version holds: formats, ports, the manifest, the directory, Triton's description."""
