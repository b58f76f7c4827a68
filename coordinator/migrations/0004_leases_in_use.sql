-- The day (as in `acceptance`) on which a lease was last given, renewed, or named by a receipt that was stored: those of
-- long ago are deleted. Nobody wrote it down before this step, and leases are renewed for as long as their nodes stay; so
-- those of before count as in use when the ledger was last written.
ALTER TABLE leases ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
UPDATE leases SET used = CAST(max(
    (SELECT max(issued) FROM leases),
    coalesce((SELECT max(stored) FROM receipts), 0)
) / 86400 AS INTEGER);

-- As for receipts: whoever deletes the oldest must find them without reading all.
CREATE INDEX leases_by_age ON leases (used);
