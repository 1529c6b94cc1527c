"""From a catalog, a folder or an array to a cube."""
