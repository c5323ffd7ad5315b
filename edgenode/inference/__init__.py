"""Using a trained model: the newest that a node has published, and other file formats. Needs no network."""
