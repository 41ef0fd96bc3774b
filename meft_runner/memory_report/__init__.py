"""What `meft-memory` answers: what a training step of any backbone and method needs."""
