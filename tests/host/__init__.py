"""Tests of the room that makes system calls."""
