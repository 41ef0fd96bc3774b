"""What a run leaves behind: its record."""
