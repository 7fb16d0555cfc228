"""The program: what puts a server together, runs it, and serves the operator's commands.

errors           what an operator can mend
parts            what needs nothing but the settings: the database, the keys, TLS
entrance         how people come in: the stages of registration and login
server           the composition root: all parts of a server, put together once
identity         an identity server: its parts, and how it runs
service          servers that run
content          the content repository, put together, and the commands that look after it
administration   what the other commands of the operator do
"""
