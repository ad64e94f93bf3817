"""Inputs that an export is compared on: drawn, at the edges of what a model takes, of other sizes."""
