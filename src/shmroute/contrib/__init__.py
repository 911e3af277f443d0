"""shmroute in the servers its users run. One module a server; each imports what it needs only when it is used."""
