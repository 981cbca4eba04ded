"""Episodes written for other programs: one module for each format, all from one neutral record."""
