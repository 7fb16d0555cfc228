"""Rooms that live on several servers."""
