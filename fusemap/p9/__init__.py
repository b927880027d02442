"""The 9P front end."""
