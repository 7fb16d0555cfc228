"""What a lying server may try."""
