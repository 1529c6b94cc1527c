"""From an array to a Zarr store, and back."""
