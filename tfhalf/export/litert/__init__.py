"""A program as a LiteRT file, made by a process of its own."""
