"""The tree beneath a Samba share."""
