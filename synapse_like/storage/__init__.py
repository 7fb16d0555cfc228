"""All the SQL of the server, written once for SQLite and PostgreSQL.

`database.py` owns the connections and the transactions; every other module here is one subject: plain functions that
take a `Transaction` first, so that several of them can be joined in one. What has been committed is announced on the
bus (`bus.py`), never called upwards.
"""
