"""A trained run on the model hub."""
