"""A program as a LiteRT file, written by a process of its own."""
