"""Fine-tuning methods: how a loaded backbone is made ready for training, and what it trained."""
