"""Byte-range locks, on real files and with real processes of the host."""
