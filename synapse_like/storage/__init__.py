"""All the SQL of the server, written once for SQLite and PostgreSQL.

At the bottom are the two databases behind one face (`engines/`). A transaction (`transactions.py`) begins and ends on a
connection (`connections.py`); the connections of a server, and the threads that use them, belong to its database
(`database.py`). Processes that share one keep out of each other's way, and hear of each other, by `shared/`.

Nearly every other module here is one subject: plain functions that take a `Transaction` first, so that several of them
can be joined in one. What has been committed is announced on the bus (`bus.py`), never called upwards.
"""
