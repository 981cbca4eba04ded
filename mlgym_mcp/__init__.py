"""Machine-learning research tasks as MCP servers."""

__version__ = "0.1.0"
