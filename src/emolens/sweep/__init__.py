"""Grids of steps: planned, run by one process or many, kept on disk, told beside controls."""
