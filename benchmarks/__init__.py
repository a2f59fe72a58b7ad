"""What the hardware could do, what the old way does, and what this package does: `make bench`."""
