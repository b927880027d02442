"""What is shown of a census."""
