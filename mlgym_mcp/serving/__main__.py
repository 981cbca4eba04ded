"""``python -m mlgym_mcp.serving``: the background host of a user, which relays start by themselves."""

from __future__ import annotations

from mlgym_mcp.loading import loading

if __name__ == "__main__":
    with loading():
        from mlgym_mcp.serving.process import main
    main()
