"""Sharpening a cube chunk by chunk, on threads, clusters and GPUs."""
