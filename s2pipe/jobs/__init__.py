"""The main job: a cube is sharpened into a store, on one tile and on many, and resumed where it was interrupted."""
