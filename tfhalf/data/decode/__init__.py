"""Bytes of an image file as pixels: exactly as Pillow has them, and as fast as the file allows."""
