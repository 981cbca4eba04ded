"""Playing a recorded episode again, and saying how it came out."""
