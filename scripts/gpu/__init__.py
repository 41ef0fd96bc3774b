"""The checks of gpu_check.py: a module for each question, which knows nothing of the others."""
