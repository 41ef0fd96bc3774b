"""One run: its folder, its training, what follows it, and what it leaves."""
