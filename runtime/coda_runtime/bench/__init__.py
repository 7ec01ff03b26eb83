"""`coda bench`: how long a bundle takes, what it holds in memory, and whether that changed."""
