"""Many runs: how they are composed and started, what became of them, and their best settings over seeds."""
