"""Techniques that distribute the artifact over devices."""
