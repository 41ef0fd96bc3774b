"""What a run leaves behind: its record, and the tables made from records."""
