"""Whole procedures: inputs, steps, result, and what it is held against."""
