"""Tests of the pure room: affixes, mappings, QIDs."""
