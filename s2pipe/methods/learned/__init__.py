"""Networks that are trained on the scene, or come with the weights of others."""
