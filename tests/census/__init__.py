"""The census: what a walk finds, and what collides."""
