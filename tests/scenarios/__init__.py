"""Scenarios: whole servers, seen from outside as their clients and their operator see them."""
