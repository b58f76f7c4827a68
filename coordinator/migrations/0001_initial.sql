-- Who may connect. A key is let in once, by a join secret; afterwards the key itself is what is known.
CREATE TABLE enrolments (
    peer     TEXT PRIMARY KEY,
    key      BLOB NOT NULL,
    role     TEXT NOT NULL CHECK (role IN ('node', 'target')),
    pool     TEXT NOT NULL,
    name     TEXT NOT NULL,
    owner    TEXT NOT NULL,
    site     TEXT NOT NULL,
    enrolled REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- SHA-256 of each secret: reading this file lets nobody in.
CREATE TABLE join_secrets (
    hash      BLOB PRIMARY KEY,
    role      TEXT NOT NULL CHECK (role IN ('node', 'target')),
    pool      TEXT NOT NULL,
    expires   REAL NOT NULL,
    uses_left INTEGER NOT NULL CHECK (uses_left >= 0),
    created   REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
    hash    BLOB PRIMARY KEY,
    name    TEXT NOT NULL UNIQUE,
    created REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE leases (
    jti    TEXT PRIMARY KEY,
    node   TEXT NOT NULL,
    target TEXT NOT NULL,
    pool   TEXT NOT NULL,
    model  TEXT NOT NULL,
    issued REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE receipts (
    id       TEXT PRIMARY KEY,
    target   TEXT NOT NULL,
    node     TEXT NOT NULL,
    jti      TEXT NOT NULL,
    session  TEXT NOT NULL,
    drafted  INTEGER NOT NULL,
    verified INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    won      INTEGER NOT NULL,
    rtt      REAL,
    stored   REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX receipts_by_node ON receipts (node, drafted, verified, accepted, won);
