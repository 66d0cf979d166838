"""The commands that make videos: image, sound and prompt in, a film out. They compose media reading and the model."""
