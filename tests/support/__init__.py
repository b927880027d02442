"""Parts that the tests share: real file systems, mounts that clean up after themselves, users to act as."""
