"""Inputs that an export is judged on: drawn, at the edges of what a model takes, of other sizes."""
