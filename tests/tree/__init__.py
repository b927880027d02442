"""Tests of the live tree, called directly: no mount."""
