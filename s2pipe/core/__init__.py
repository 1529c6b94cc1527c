"""What everything knows: bands, the lattice, the cube, how numbers mean reflectance, metrics and errors."""
