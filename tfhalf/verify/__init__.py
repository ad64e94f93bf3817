"""An artifact held against the float32 model: reference, comparison, a fresh process, reports."""
