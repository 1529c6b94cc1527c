"""Scenes with a known truth, as arrays and as an archive, and the demo on one."""
