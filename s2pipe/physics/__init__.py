"""What the sensor does to an image, and the way back to what was observed."""
