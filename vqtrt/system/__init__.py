"""What vqtrt asks of the operating system: files, locks, signals, cores."""
