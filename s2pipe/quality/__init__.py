"""How good a result is, and how well the bands of a scene fit each other."""
