"""The default method: what was observed is kept, and a network fills in what the sensor does not see."""
