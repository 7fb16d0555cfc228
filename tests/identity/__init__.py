"""The identity server within this process."""
