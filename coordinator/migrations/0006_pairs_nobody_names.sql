-- A pair that neither a lease nor a day of acceptance names is deleted with the last of them: whoever deletes those must
-- find out without reading all.
CREATE INDEX leases_by_pair ON leases (pair);
CREATE INDEX acceptance_by_pair ON acceptance (pair);
DELETE FROM model_pairs
WHERE id NOT IN (SELECT pair FROM leases WHERE pair IS NOT NULL UNION SELECT pair FROM acceptance);
