"""Tests of the FUSE front end, most of them on real mounts."""
