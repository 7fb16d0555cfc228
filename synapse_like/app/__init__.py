"""The program: what puts a server together, runs it, and serves the operator's commands.

errors           what an operator can mend
parts            what needs nothing but the settings: the database, the keys, TLS
foundation       what all parts of a home server stand on
speaking  rooms  streams  presence  addresses  content  entrance  client_site  federation_site  health
                 its parts, put together by subject
server           the composition root: all of them, put together once
identity         an identity server: its parts, and how it runs
service          servers that run
administration   what the other commands of the operator do
"""
