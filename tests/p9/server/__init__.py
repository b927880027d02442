"""The server with real sockets and pipes, and sessions that echo: what one client does costs nobody else."""
