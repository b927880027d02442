"""fusemap's tests; the rooms here mirror those of the package."""
