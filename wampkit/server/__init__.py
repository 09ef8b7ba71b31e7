"""A running app behind aiohttp."""
