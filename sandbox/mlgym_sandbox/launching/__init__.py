"""The short-lived program that starts a bubblewrap sandbox. Standard library only: it starts in milliseconds."""
