"""The Python interface: what `import meft_runner` offers to training loops of others."""
