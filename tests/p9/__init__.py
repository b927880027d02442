"""Tests of fusemap.p9."""
