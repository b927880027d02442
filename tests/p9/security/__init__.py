"""What clients may do and see: attacks, and the security models."""

