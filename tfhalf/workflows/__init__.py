"""What a command does, told on one screen each."""
