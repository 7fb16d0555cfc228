"""What the measuring programs share: the thing that is measured, a client, the clocks, the tables."""
