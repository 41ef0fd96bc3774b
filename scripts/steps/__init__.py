"""What the scripts that time training steps share: methods to compare, models of random weights, the clock."""
