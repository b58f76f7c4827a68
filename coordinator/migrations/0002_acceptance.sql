-- Which model drafts for which. Leases and acceptance name a pair by its number.
CREATE TABLE model_pairs (
    id             INTEGER PRIMARY KEY,
    target         TEXT NOT NULL,
    target_digest  TEXT NOT NULL,
    drafter        TEXT NOT NULL,
    drafter_digest TEXT NOT NULL,
    UNIQUE (target, target_digest, drafter, drafter_digest)
) STRICT;

-- NULL for leases made before this step: nobody wrote down which models they were for.
ALTER TABLE leases ADD COLUMN pair INTEGER;

-- Sums over receipts: positions drafted for, and of these those the drafter and the target agreed on. `day` counts from
-- 1970-01-01 UTC; it comes first in the key because old days are deleted.
CREATE TABLE acceptance (
    day     INTEGER NOT NULL,
    pair    INTEGER NOT NULL,
    depth   INTEGER NOT NULL CHECK (depth >= 1),
    reached INTEGER NOT NULL,
    agreed  INTEGER NOT NULL CHECK (agreed BETWEEN 0 AND reached),
    PRIMARY KEY (day, pair, depth)
) STRICT, WITHOUT ROWID;
