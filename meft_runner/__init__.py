"""Memory-efficient fine-tuning by reversible adapters (MEFT, arXiv 2306.00477)."""

__version__ = "0.1.0"
