"""Network architectures, one per file, as bare torch modules."""
