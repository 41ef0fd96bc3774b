"""A trained run on new rows: what `meft-predict` answers."""
