"""Tests of fusemap.smb that need no Samba; tests/samba has those that do."""
