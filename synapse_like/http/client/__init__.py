"""What clients ask for: endpoints by subject, each a few lines from a call to a handler and back; the shape of events;
and a table of routes for each dialect of the API (`v1.py`)."""
