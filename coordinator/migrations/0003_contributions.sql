-- Sums over receipts that were deleted for their age: what a node has done is kept when nobody needs to know when.
CREATE TABLE contributions (
    node     TEXT PRIMARY KEY,
    drafted  INTEGER NOT NULL,
    verified INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    won      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The oldest come first: whoever deletes them must find them without reading all.
CREATE INDEX receipts_by_age ON receipts (stored);
