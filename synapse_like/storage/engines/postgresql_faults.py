"""What can be wrong with a PostgreSQL database below its tables, and what helps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from psycopg import Error, errors

from synapse_like.storage.engines.engine import RawConnection

#: What may be lost where a setting is off.
_RISKS = {
    "fsync": "A power cut may destroy the database",
    "full_page_writes": "A power cut may destroy parts of the database, unless its file system writes pages whole",
    "synchronous_commit": "A crash may take the last moments",
}


def faults(connection: RawConnection, *, thorough: bool = False) -> list[str]:
    """What is wrong, in sentences.

    :param thorough: whether every row and index is looked at.
    """
    invalid = connection.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid").fetchall()
    found = [f"The index {row[0]} is not valid." for row in invalid]
    [(encoding,)] = connection.execute("SHOW server_encoding").fetchall()
    if encoding != "UTF8":
        found.append(f"The encoding of the database is {encoding} and not UTF8.")
    if _is_sorted_otherwise(connection):
        found.append("The system sorts text otherwise than when the database was made: every index may be wrong.")
    if thorough:
        found += _doubles(connection)
        found += _orphans(connection)
        with _amcheck(connection) as schema:
            found += _damage(connection, schema) if schema is not None else []
    return found


def risks(connection: RawConnection) -> list[str]:
    """What may be lost of what was committed, by how PostgreSQL is set up, in sentences."""
    found = []
    for setting, loss in _RISKS.items():
        [(value,)] = connection.execute("SELECT current_setting(%s)", (setting,)).fetchall()
        if value == "off":
            found.append(f"{loss}: {setting} is off.")
    return found


def left_out(connection: RawConnection) -> list[str]:
    """What a thorough look cannot look at here, and why, in sentences."""
    with _amcheck(connection) as schema:
        if schema is not None:
            return []
    return [
        "The insides of indexes and tables are not looked at: PostgreSQL's extension amcheck is not to be had."
        " A superuser can make it so: CREATE EXTENSION amcheck; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public"
        " TO the server's user."
    ]


def make_indexes_anew(connection: RawConnection) -> None:
    """Derive all indexes from their tables again."""
    for table in _tables(connection):
        connection.execute(f"REINDEX TABLE {table}")
    if _is_sorted_otherwise(connection):
        # Our own tables are all there is in our database.
        [(name,)] = connection.execute("SELECT quote_ident(current_database())").fetchall()
        with contextlib.suppress(errors.InsufficientPrivilege):
            connection.execute(f"ALTER DATABASE {name} REFRESH COLLATION VERSION")


def _tables(connection: RawConnection) -> list[str]:
    rows = connection.execute(
        "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind = 'r'"
        " AND c.relnamespace = current_schema()::regnamespace ORDER BY 1"
    ).fetchall()
    return [row[0] for row in rows]


def _is_sorted_otherwise(connection: RawConnection) -> bool:
    """Whether the library by which text is sorted has changed since; databases with the locale C need none."""
    [(version,)] = connection.execute("SHOW server_version_num").fetchall()
    if int(version) < 150000:
        return False
    [(is_otherwise,)] = connection.execute(
        "SELECT coalesce(datcollversion <> pg_database_collation_actual_version(oid), false)"
        " FROM pg_database WHERE datname = current_database()"
    ).fetchall()
    return bool(is_otherwise)


def _doubles(connection: RawConnection) -> Iterator[str]:
    """What there is twice and may be there once, seen without the indexes that should have kept it out."""
    rows = connection.execute(
        "SELECT i.indexrelid::regclass::text, i.indrelid::regclass::text, pg_get_expr(i.indpred, i.indrelid),"
        " (SELECT string_agg(pg_get_indexdef(i.indexrelid, n, true), ', ' ORDER BY n)"
        "  FROM generate_series(1, i.indnkeyatts) n)"
        " FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
        " WHERE i.indisunique AND c.relnamespace = current_schema()::regnamespace ORDER BY 1"
    ).fetchall()
    connection.execute("BEGIN")
    try:
        for method in ("indexscan", "indexonlyscan", "bitmapscan"):
            connection.execute(f"SET LOCAL enable_{method} = off")
        for index, table, condition, columns in rows:
            where = f"({condition}) AND ({columns}) IS NOT NULL" if condition else f"({columns}) IS NOT NULL"
            query = f"SELECT 1 FROM {table} WHERE {where} GROUP BY {columns} HAVING count(*) > 1 LIMIT 1"
            if connection.execute(query).fetchone() is not None:
                yield f"Rows of {table} are there twice that {index} should have kept out."
    finally:
        connection.execute("ROLLBACK")


def _orphans(connection: RawConnection) -> Iterator[str]:
    """Rows that refer to rows which are not there."""
    rows = connection.execute(
        "SELECT k.conrelid::regclass::text, k.confrelid::regclass::text,"
        " (SELECT string_agg(format('c.%I = p.%I', a.attname, b.attname), ' AND ')"
        "  FROM unnest(k.conkey, k.confkey) AS pair (mine, theirs)"
        "  JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = pair.mine"
        "  JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = pair.theirs),"
        " (SELECT string_agg(format('c.%I IS NOT NULL', a.attname), ' AND ')"
        "  FROM unnest(k.conkey) AS mine JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = mine)"
        " FROM pg_constraint k WHERE k.contype = 'f' AND k.connamespace = current_schema()::regnamespace ORDER BY 1"
    ).fetchall()
    for table, parent, same, is_set in rows:
        query = f"SELECT count(*) FROM {table} c WHERE {is_set} AND NOT EXISTS (SELECT 1 FROM {parent} p WHERE {same})"
        [(count,)] = connection.execute(query).fetchall()
        if count:
            yield f"Of {table}, {count} rows refer to rows of {parent} that are not there."


@contextlib.contextmanager
def _amcheck(connection: RawConnection) -> Iterator[str | None]:
    """Have PostgreSQL's extension that looks into indexes and tables; the schema that it is in, None without it.

    Where it is not installed and we may do that, it is there for as long as this transaction, and then gone.
    """
    query = "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
    connection.execute("BEGIN")
    try:
        schema = None
        with contextlib.suppress(
            errors.InsufficientPrivilege,
            errors.FeatureNotSupported,
            errors.UndefinedFile,
            errors.ReadOnlySqlTransaction,
        ):
            connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
            [(name,)] = connection.execute(f"{query} WHERE e.extname = 'amcheck'").fetchall()
            [(may,)] = connection.execute(
                "SELECT bool_and(has_function_privilege(oid, 'EXECUTE')) FROM pg_proc"
                " WHERE proname IN ('bt_index_check', 'verify_heapam')"
            ).fetchall()
            schema = str(name) if may else None
        yield schema
    finally:
        connection.execute("ROLLBACK")


def _damage(connection: RawConnection, schema: str) -> Iterator[str]:
    """What is wrong inside of indexes, each compared with its table, and of tables."""
    indexes = connection.execute(
        "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND i.indisvalid"
        " AND c.relnamespace = current_schema()::regnamespace ORDER BY 1"
    ).fetchall()
    for (index,) in indexes:
        connection.execute("SAVEPOINT looking")
        try:
            connection.execute(f"SELECT {schema}.bt_index_check(%s::regclass, true)", (index,))
        except Error as error:
            connection.execute("ROLLBACK TO SAVEPOINT looking")
            yield f"The index {index} is damaged: {error.diag.message_primary}."
    [(version,)] = connection.execute("SHOW server_version_num").fetchall()
    for table in _tables(connection) if int(version) >= 140000 else ():
        query = f"SELECT blkno, msg FROM {schema}.verify_heapam(%s::regclass) LIMIT 5"
        for block, message in connection.execute(query, (table,)).fetchall():
            yield f"The table {table} is damaged in block {block}: {message}."
