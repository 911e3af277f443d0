"""What a worker process loads: the reader, its look-up, and the values it gives. Never imports the watcher's half."""
