"""Facades: our sessions behind the HTTP routes of other standards, so that their own clients drive them.

``python -m mlgym_clients.facades openenv|openreward``; see docs/facades.md.
"""
