-- When a lease ends, in seconds since 1970-01-01 UTC: a coordinator that starts reads back those that have not. Nobody
-- wrote it down before this step, so leases of before count as ended.
ALTER TABLE leases ADD COLUMN expires REAL NOT NULL DEFAULT 0;
