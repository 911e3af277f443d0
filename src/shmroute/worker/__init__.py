"""The worker's half: the reader, its look-up, and the values that it returns. Never imports the watcher's half."""
