"""What every other room uses: bands, the lattice, the cube, encodings of reflectance, metrics and errors."""
