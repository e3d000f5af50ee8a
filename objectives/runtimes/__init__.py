"""The catalogue of runtimes: each executes artifacts of its own kind of files."""
