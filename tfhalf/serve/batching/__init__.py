"""Requests joined into batches, and the room that they wait in."""
